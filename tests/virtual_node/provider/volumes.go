package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How long a token is used before the next one is asked for, where the provider does that at all.
const tokenAge = 20 * time.Second

// Writes the files of all volumes whose content has changed.
func (p *pod) writeVolumes(first bool) error {
	object := p.own()
	for _, volume := range object.Spec.Volumes {
		folder := filepath.Join(p.folder, "volumes", volume.Name)
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return err
		}
		if volume.EmptyDir != nil {
			os.Chmod(folder, 0o777)
			continue
		}
		files, err := p.content(object, &volume.VolumeSource, folder)
		if err != nil {
			return err
		}
		for name, content := range files {
			if err := replace(filepath.Join(folder, name), content); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pod) content(object *corev1.Pod, volume *corev1.VolumeSource, folder string) (map[string][]byte, error) {
	switch {
	case volume.ConfigMap != nil:
		return p.configMap(object.Namespace, volume.ConfigMap.Name, volume.ConfigMap.Items)
	case volume.Secret != nil:
		secret, err := p.provider.client.CoreV1().Secrets(object.Namespace).Get(context.Background(), volume.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return secret.Data, nil
	case volume.Projected != nil:
		files := map[string][]byte{}
		for _, source := range volume.Projected.Sources {
			found, err := p.projected(object, &source, folder)
			if err != nil {
				return nil, err
			}
			for name, content := range found {
				files[name] = content
			}
		}
		return files, nil
	}
	return nil, nil
}

func (p *pod) projected(object *corev1.Pod, source *corev1.VolumeProjection, folder string) (map[string][]byte, error) {
	switch {
	case source.ConfigMap != nil:
		return p.configMap(object.Namespace, source.ConfigMap.Name, source.ConfigMap.Items)
	case source.ServiceAccountToken != nil:
		file := source.ServiceAccountToken.Path
		if info, err := os.Stat(filepath.Join(folder, file)); err == nil && time.Since(info.ModTime()) < tokenAge {
			return nil, nil
		}
		token, err := p.token(object, source.ServiceAccountToken)
		return map[string][]byte{file: []byte(token)}, err
	case source.DownwardAPI != nil:
		files := map[string][]byte{}
		for _, item := range source.DownwardAPI.Items {
			if item.FieldRef != nil && item.FieldRef.FieldPath == "metadata.namespace" {
				files[item.Path] = []byte(object.Namespace)
			}
		}
		return files, nil
	}
	return nil, nil
}

// A token that is bound to the pod, as kubelet asks for one.
func (p *pod) token(object *corev1.Pod, wanted *corev1.ServiceAccountTokenProjection) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: wanted.ExpirationSeconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: object.Name, UID: object.UID,
		},
	}}
	accounts := p.provider.client.CoreV1().ServiceAccounts(object.Namespace)
	answer, err := accounts.CreateToken(context.Background(), object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

func (p *pod) configMap(namespace, name string, items []corev1.KeyToPath) (map[string][]byte, error) {
	object, err := p.provider.client.CoreV1().ConfigMaps(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for key, text := range object.Data {
		if len(items) == 0 {
			files[key] = []byte(text)
		}
		for _, item := range items {
			if item.Key == key {
				files[item.Path] = []byte(text)
			}
		}
	}
	return files, nil
}

// Readers see the old content or the new one.
func replace(file string, content []byte) error {
	if found, err := os.ReadFile(file); err == nil && bytes.Equal(found, content) {
		return nil
	}
	next := file + ".next"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(next, file)
}
