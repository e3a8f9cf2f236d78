// A node for tests: the library virtual-kubelet with a provider that runs containers as processes of this machine. Each pod
// has a network namespace with nothing but loopback, in which a forwarder serves the API server's Service address.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/virtual-kubelet/virtual-kubelet/log"
	slogadapter "github.com/virtual-kubelet/virtual-kubelet/log/slog"
	"github.com/virtual-kubelet/virtual-kubelet/node"
	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// What a provider decides, one flag each.
type options struct {
	name       string
	kubeconfig string
	folder     string // for everything that the pods write
	images     string // a folder for each image, named after it without the tag
	server     string // the API server's address on this machine
	cert, key  string // of the kubelet API
	reports    string // how the status of a pod is reported, see provider.go
	refreshes  bool   // whether tokens and ConfigMaps of running pods are read again
	updates    bool   // whether UpdatePod does anything
	sidecars   bool   // whether an init container with restartPolicy Always is a native sidecar
}

func main() {
	var err error
	switch os.Args[1] {
	case "node":
		err = runNode(parse(os.Args[2:]))
	case "forward":
		err = forward(os.Args[2])
	case "container":
		err = becomeContainer(os.Args[2])
	default:
		err = fmt.Errorf("unknown command %s", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "virtual-node:", err)
		os.Exit(1)
	}
}

func parse(args []string) options {
	var o options
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	flags.StringVar(&o.name, "name", "", "")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "")
	flags.StringVar(&o.folder, "folder", "", "")
	flags.StringVar(&o.images, "images", "", "")
	flags.StringVar(&o.server, "server", "", "")
	flags.StringVar(&o.cert, "cert", "", "")
	flags.StringVar(&o.key, "key", "", "")
	flags.StringVar(&o.reports, "reports", "notify", "")
	flags.BoolVar(&o.refreshes, "refreshes", true, "")
	flags.BoolVar(&o.updates, "updates", true, "")
	flags.BoolVar(&o.sidecars, "native-sidecars", true, "")
	flags.Parse(args)
	return o
}

func runNode(o options) error {
	log.L = slogadapter.FromSlog(slog.Default())
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	go http.Serve(listener, mux)

	newProvider := func(c nodeutil.ProviderConfig) (nodeutil.Provider, node.NodeProvider, error) {
		p := &provider{options: o, client: client, lister: c.Pods, pods: map[string]*pod{}}
		if o.reports == "polled" {
			return p, nil, nil
		}
		return &notifier{p}, nil, nil
	}
	n, err := nodeutil.NewNode(o.name, newProvider, func(c *nodeutil.NodeConfig) error {
		c.Client = client
		c.NodeSpec.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
		c.NodeSpec.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(listener.Addr().(*net.TCPAddr).Port)
		c.NodeSpec.Status.Capacity = corev1.ResourceList{"pods": resource.MustParse("100")}
		return nil
	}, nodeutil.AttachProviderRoutes(mux))
	if err != nil {
		return err
	}
	return n.Run(context.Background())
}
