package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How often tokens and ConfigMaps are read again, and how long after its end a container is started again.
const (
	refreshInterval = 2 * time.Second
	restartDelay    = time.Second
)

// One pod, from its creation to its deletion.
type pod struct {
	provider *provider
	folder   string
	network  *network
	started  metav1.Time

	mu         sync.Mutex
	object     *corev1.Pod // as the library gave it last; its env has values alone
	containers map[string]*container
	stopping   bool
	said       []any // by the last report
}

// One container, through all of its restarts.
type container struct {
	spec     corev1.Container
	process  *os.Process
	image    string // of the process
	since    metav1.Time
	exit     *corev1.ContainerStateTerminated
	restarts int32
}

func newPod(p *provider, object *corev1.Pod) (*pod, error) {
	folder := filepath.Join(p.folder, "pods", string(object.UID))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	pod := &pod{
		provider: p, folder: folder, started: metav1.Now(), object: object.DeepCopy(), containers: map[string]*container{},
	}
	if err := pod.writeVolumes(true); err != nil {
		return nil, err
	}
	network, err := newNetwork(p.server)
	pod.network = network
	return pod, err
}

// Starts the init containers in order, then all others, and keeps the volumes fresh.
func (p *pod) run() {
	for _, spec := range p.own().Spec.InitContainers {
		isSidecar := spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
		ended := p.keep(spec)
		if !isSidecar || !p.provider.sidecars {
			<-ended
		}
	}
	for _, spec := range p.own().Spec.Containers {
		p.keep(spec)
	}
	for p.provider.refreshes && !p.isStopping() {
		time.Sleep(refreshInterval)
		if err := p.writeVolumes(false); err != nil {
			slog.Warn("volumes", "error", err)
		}
	}
}

// Starts a container and starts it again when it ends. The channel is closed when it has ended for good.
func (p *pod) keep(spec corev1.Container) <-chan struct{} {
	p.mu.Lock()
	p.containers[spec.Name] = &container{spec: spec}
	p.mu.Unlock()
	ended := make(chan struct{})
	began := make(chan struct{})
	go func() {
		defer close(ended)
		for first := true; p.runOnce(spec.Name, &first, began); {
			time.Sleep(restartDelay)
		}
	}()
	<-began
	return ended
}

// Runs a container to its end. Whether it is to be started again.
func (p *pod) runOnce(name string, first *bool, began chan struct{}) bool {
	p.mu.Lock()
	c := p.containers[name]
	if p.stopping {
		p.mu.Unlock()
		return false
	}
	command, err := p.start(&c.spec)
	if err == nil {
		c.process, c.image, c.since, c.exit = command.Process, c.spec.Image, metav1.Now(), nil
	} else {
		c.exit = &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: err.Error()}
	}
	p.mu.Unlock()
	p.provider.changed(p)
	if *first {
		*first = false
		close(began)
	}
	if err == nil {
		command.Wait()
		message, _ := os.ReadFile(p.terminationLog(name))
		p.mu.Lock()
		c.process = nil
		c.exit = &corev1.ContainerStateTerminated{
			ExitCode: exitCode(command.ProcessState), Message: string(message), StartedAt: c.since, FinishedAt: metav1.Now(),
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	again := !p.stopping && p.object.Spec.RestartPolicy == corev1.RestartPolicyAlways
	if again {
		c.restarts++
	}
	p.mu.Unlock()
	p.provider.changed(p)
	return again
}

func exitCode(state *os.ProcessState) int32 {
	if status := state.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int32(status.Signal())
	}
	return int32(state.ExitCode())
}

// Takes the new object, and has the containers that have a new image started again, no other.
func (p *pod) update(object *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.object = object.DeepCopy()
	for _, spec := range append(object.Spec.InitContainers, object.Spec.Containers...) {
		if c := p.containers[spec.Name]; c != nil && c.spec.Image != spec.Image {
			c.spec = spec
			if c.process != nil {
				c.process.Signal(syscall.SIGTERM)
			}
		}
	}
}

// Ends all containers, those that do not listen after the grace period.
func (p *pod) stop(grace time.Duration) {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	p.signal(syscall.SIGTERM)
	for deadline := time.Now().Add(grace); p.isRunning() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	p.signal(syscall.SIGKILL)
	for p.isRunning() {
		time.Sleep(10 * time.Millisecond)
	}
	p.network.end()
	p.provider.changed(p)
}

func (p *pod) signal(signal os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		if c.process != nil {
			c.process.Signal(signal)
		}
	}
}

func (p *pod) isRunning() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		if c.process != nil {
			return true
		}
	}
	return false
}

func (p *pod) isStopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping
}

// The provider's own copy of the object.
func (p *pod) own() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object.DeepCopy()
}

func (p *pod) logFile(container string) string { return filepath.Join(p.folder, container+".log") }

func (p *pod) terminationLog(container string) string {
	return filepath.Join(p.folder, container+".termination-log")
}

// The status as the provider sees it, which knows nothing of conditions that others set.
func (p *pod) status() corev1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	phase, ready := corev1.PodRunning, corev1.ConditionTrue
	statuses := func(specs []corev1.Container) (found []corev1.ContainerStatus) {
		for _, spec := range specs {
			status := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, ImageID: spec.Image}
			c := p.containers[spec.Name]
			switch {
			case c == nil:
				status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
			case c.process != nil:
				status.Image, status.ImageID, status.RestartCount = c.image, c.image, c.restarts
				status.ContainerID = fmt.Sprintf("process://%d", c.process.Pid)
				status.State.Running = &corev1.ContainerStateRunning{StartedAt: c.since}
				status.Ready = true
			default:
				status.RestartCount = c.restarts
				status.State.Terminated = c.exit
			}
			status.Started = &status.Ready
			if !status.Ready {
				ready = corev1.ConditionFalse
			}
			if c == nil {
				phase = corev1.PodPending
			}
			found = append(found, status)
		}
		return found
	}
	status := corev1.PodStatus{HostIP: "127.0.0.1", PodIP: "192.0.2.1", StartTime: &p.started}
	status.InitContainerStatuses = statuses(p.object.Spec.InitContainers)
	status.ContainerStatuses = statuses(p.object.Spec.Containers)
	if p.stopping && ready == corev1.ConditionFalse {
		phase = corev1.PodSucceeded
	}
	status.Phase = phase
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: p.started}
		if kind == corev1.ContainersReady || kind == corev1.PodReady {
			condition.Status = ready
		}
		status.Conditions = append(status.Conditions, condition)
	}
	return status
}

// Whether this differs from the last report.
func (p *pod) isNews(report *corev1.Pod) bool {
	said := []any{report.Status, report.Labels, report.Annotations}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := reflect.DeepEqual(said, p.said)
	p.said = said
	return !known
}

// A command in the namespaces of a running container.
func (p *pod) enter(name string, words []string) (*exec.Cmd, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.containers[name]
	if c == nil || c.process == nil {
		return nil, fmt.Errorf("%s does not run", name)
	}
	user, group := p.user(&c.spec)
	command := exec.Command("nsenter", append([]string{
		"--target", fmt.Sprint(c.process.Pid), "--mount", "--net", "--pid", "--root", "--wd",
		"--setgid", fmt.Sprint(group), "--setuid", fmt.Sprint(user), "--",
	}, words...)...)
	command.Env = environment(&c.spec)
	return command, nil
}

func environment(spec *corev1.Container) []string {
	env := []string{"PATH=/bin"}
	for _, variable := range spec.Env {
		env = append(env, variable.Name+"="+variable.Value)
	}
	return env
}

// The user and the group of a container's process.
func (p *pod) user(spec *corev1.Container) (user, group int64) {
	if of := p.object.Spec.SecurityContext; of != nil {
		set(&user, of.RunAsUser)
		set(&group, of.RunAsGroup)
	}
	if of := spec.SecurityContext; of != nil {
		set(&user, of.RunAsUser)
		set(&group, of.RunAsGroup)
	}
	return user, group
}

func set(number *int64, to *int64) {
	if to != nil {
		*number = *to
	}
}

// Starts a container's process: the image is a folder, copied without its tag.
func (p *pod) start(spec *corev1.Container) (*exec.Cmd, error) {
	image, _, _ := strings.Cut(spec.Image, ":")
	root := filepath.Join(p.folder, spec.Name)
	os.RemoveAll(root)
	if out, err := exec.Command("cp", "-a", filepath.Join(p.provider.images, image), root).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %s", err, out)
	}
	c := process{Root: root, Mounts: []mount{{p.terminationLog(spec.Name), "/dev/termination-log", false}}}
	os.WriteFile(p.terminationLog(spec.Name), nil, 0o666)
	os.Chmod(p.terminationLog(spec.Name), 0o666)
	for _, m := range spec.VolumeMounts {
		c.Mounts = append(c.Mounts, mount{filepath.Join(p.folder, "volumes", m.Name, m.SubPath), m.MountPath, m.ReadOnly})
	}
	c.ReadOnly = spec.SecurityContext != nil && spec.SecurityContext.ReadOnlyRootFilesystem != nil && *spec.SecurityContext.ReadOnlyRootFilesystem
	c.User, c.Group = p.user(spec)
	c.Args = append(append(c.Args, spec.Command...), spec.Args...)
	if len(c.Args) == 0 {
		c.Args = []string{"/" + image}
	}
	log, err := os.OpenFile(p.logFile(spec.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return p.network.start(c, environment(spec), log)
}
