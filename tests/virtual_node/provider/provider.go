package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	utilexec "k8s.io/utils/exec"
)

// How often a provider that looks at its pods by itself reports them: as often as the library polls the others.
const reportInterval = 5 * time.Second

// A provider that reports nothing by itself: the library polls it (systemk).
type provider struct {
	options
	client kubernetes.Interface
	lister corev1listers.PodLister

	mu   sync.Mutex
	pods map[string]*pod // by namespace and name, as the library asks for them

	report func(*corev1.Pod)
}

func key(namespace, name string) string { return namespace + "/" + name }

func (p *provider) CreatePod(_ context.Context, object *corev1.Pod) error {
	pod, err := newPod(p, object)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.pods[key(object.Namespace, object.Name)] = pod
	p.mu.Unlock()
	go pod.run()
	return nil
}

func (p *provider) UpdatePod(_ context.Context, object *corev1.Pod) error {
	if pod := p.find(object.Namespace, object.Name); pod != nil && p.updates {
		pod.update(object)
	}
	return nil
}

func (p *provider) DeletePod(_ context.Context, object *corev1.Pod) error {
	p.mu.Lock()
	pod := p.pods[key(object.Namespace, object.Name)]
	delete(p.pods, key(object.Namespace, object.Name))
	p.mu.Unlock()
	if pod == nil {
		return errdefs.NotFound("no such pod")
	}
	grace := int64(0)
	if object.DeletionGracePeriodSeconds != nil {
		grace = *object.DeletionGracePeriodSeconds
	}
	go pod.stop(time.Duration(grace) * time.Second)
	return nil
}

func (p *provider) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod := p.find(namespace, name); pod != nil {
		return pod.own(), nil
	}
	return nil, errdefs.NotFound("no such pod")
}

func (p *provider) GetPodStatus(_ context.Context, namespace, name string) (*corev1.PodStatus, error) {
	if pod := p.find(namespace, name); pod != nil {
		status := pod.status()
		return &status, nil
	}
	return nil, errdefs.NotFound("no such pod")
}

func (p *provider) GetPods(context.Context) ([]*corev1.Pod, error) {
	var objects []*corev1.Pod
	for _, pod := range p.all() {
		objects = append(objects, pod.own())
	}
	return objects, nil
}

func (p *provider) find(namespace, name string) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods[key(namespace, name)]
}

func (p *provider) all() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pods []*pod
	for _, pod := range p.pods {
		pods = append(pods, pod)
	}
	return pods
}

func (p *provider) GetContainerLogs(_ context.Context, namespace, name, container string, _ api.ContainerLogOpts) (io.ReadCloser, error) {
	if pod := p.find(namespace, name); pod != nil {
		return os.Open(pod.logFile(container))
	}
	return nil, errdefs.NotFound("no such pod")
}

func (p *provider) RunInContainer(_ context.Context, namespace, name, container string, words []string, attach api.AttachIO) error {
	pod := p.find(namespace, name)
	if pod == nil {
		return errdefs.NotFound("no such pod")
	}
	command, err := pod.enter(container, words)
	if err != nil {
		return err
	}
	command.Stdout, command.Stderr = attach.Stdout(), attach.Stderr()
	err = command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

var errNotThere = errors.New("this provider has none")

func (p *provider) AttachToContainer(context.Context, string, string, string, api.AttachIO) error {
	return errNotThere
}
func (p *provider) GetStatsSummary(context.Context) (*statsv1alpha1.Summary, error) {
	return nil, errNotThere
}
func (p *provider) GetMetricsResource(context.Context) ([]*dto.MetricFamily, error) {
	return nil, errNotThere
}
func (p *provider) PortForward(context.Context, string, string, int32, io.ReadWriteCloser) error {
	return errNotThere
}

// A provider that reports by itself, in one of four ways.
type notifier struct{ *provider }

// NotifyPods is given the function that writes a pod's whole status to the API server, and its labels and annotations.
func (n *notifier) NotifyPods(ctx context.Context, report func(*corev1.Pod)) {
	n.report = report
	switch n.reports {
	case "notify": // when something changes, see changed
	case "keep": // the same, looked at all the time, with the conditions that others have set
		n.everySoOften(func() {
			for _, pod := range n.all() {
				n.changed(pod)
			}
		})
	case "lister": // all the time, the pod that the library knows with a status of the provider's alone (azure-aci)
		n.everySoOften(func() {
			latest, _ := n.lister.List(labels.Everything())
			for _, object := range latest {
				if pod := n.find(object.Namespace, object.Name); pod != nil {
					n.report(n.latest(pod, object))
				}
			}
		})
	case "own": // all the time, the pod as it was when it was created (interLink is close)
		n.everySoOften(func() {
			for _, pod := range n.all() {
				object := pod.own()
				object.Status = pod.status()
				n.report(object)
			}
		})
	}
}

func (n *notifier) everySoOften(report func()) {
	go func() {
		for range time.Tick(reportInterval) {
			report()
		}
	}()
}

// changed is told when something may have happened to a pod. Nothing is reported twice: the library writes a report that it
// was given twice again and again.
func (p *provider) changed(pod *pod) {
	if p.reports != "notify" && p.reports != "keep" {
		return
	}
	own := pod.own()
	object, err := p.lister.Pods(own.Namespace).Get(own.Name)
	if err != nil {
		return
	}
	latest := p.latest(pod, object)
	if p.reports == "keep" {
		latest.Status.Conditions = append(latest.Status.Conditions, foreign(object.Status.Conditions, latest.Status.Conditions)...)
	}
	if pod.isNews(latest) {
		p.report(latest)
	}
}

// The pod that the library knows, with the provider's own status.
func (p *provider) latest(pod *pod, object *corev1.Pod) *corev1.Pod {
	object = object.DeepCopy()
	object.Status = pod.status()
	return object
}

// The conditions that the provider has no word on.
func foreign(found, own []corev1.PodCondition) []corev1.PodCondition {
	known := map[corev1.PodConditionType]bool{}
	for _, condition := range own {
		known[condition.Type] = true
	}
	var others []corev1.PodCondition
	for _, condition := range found {
		if !known[condition.Type] {
			others = append(others, condition)
		}
	}
	return others
}
