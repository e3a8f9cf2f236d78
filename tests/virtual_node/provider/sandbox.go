package main

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The address of the Service "kubernetes", which the library gives to each container.
const service = "10.0.0.1"

// A network namespace with nothing but loopback, and the process that serves the API server's address there.
type network struct {
	namespace *os.File
	forwarder *exec.Cmd
}

func newNetwork(server string) (*network, error) {
	n := &network{}
	var listening *os.File
	err := onThreadOfItsOwn(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if n.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if err = loopback(); err != nil {
			return err
		}
		listener, err := net.Listen("tcp", service+":443")
		if err != nil {
			return err
		}
		listening, err = listener.(*net.TCPListener).File()
		listener.Close()
		return err
	})
	if err != nil {
		return nil, err
	}
	defer listening.Close()
	// A process: it serves the pod when the provider is gone.
	n.forwarder = exec.Command("/proc/self/exe", "forward", server)
	n.forwarder.ExtraFiles = []*os.File{listening}
	n.forwarder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return n, n.forwarder.Start()
}

func (n *network) end() {
	n.forwarder.Process.Kill()
	n.forwarder.Wait()
	n.namespace.Close()
}

// Brings loopback up with the Service's address.
func loopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	up, _ := unix.NewIfreq("lo")
	up.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, up); err != nil {
		return err
	}
	address, _ := unix.NewIfreq("lo:1")
	if err := address.SetInet4Addr(net.ParseIP(service).To4()); err != nil {
		return err
	}
	return unix.IoctlIfreq(socket, unix.SIOCSIFADDR, address)
}

// The thread ends with the function, and so do the namespaces that it has entered.
func onThreadOfItsOwn(run func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- run()
	}()
	return <-done
}

// Hands on each connection of the listener that it has inherited.
func forward(server string) error {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				return
			}
			defer upstream.Close()
			go func() {
				io.Copy(upstream, client)
				upstream.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(client, upstream)
		}()
	}
}

// What a container's first process is made of.
type process struct {
	Root        string
	Mounts      []mount
	ReadOnly    bool
	User, Group int64
	Args        []string
}

type mount struct {
	From, To string
	ReadOnly bool
}

// Starts a process in this network, as the first one of PID and mount namespaces of its own. It survives the provider.
func (n *network) start(what process, env []string, log *os.File) (*exec.Cmd, error) {
	text, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	command := exec.Command("/proc/self/exe", "container", string(text))
	command.Env, command.Stdout, command.Stderr = env, log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	return command, onThreadOfItsOwn(func() error {
		if err := unix.Setns(int(n.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return command.Start()
	})
}

// The last steps, taken in the new namespaces.
func becomeContainer(text string) error {
	var p process
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	bind := func(from, to string, readOnly bool) error {
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil || !readOnly {
			return err
		}
		return unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	for _, m := range p.Mounts {
		m.To = filepath.Join(p.Root, m.To)
		if err := mountPoint(m.From, m.To); err != nil {
			return err
		}
	}
	if err := bind(p.Root, p.Root, p.ReadOnly); err != nil {
		return err
	}
	for _, m := range p.Mounts {
		if err := bind(m.From, filepath.Join(p.Root, m.To), m.ReadOnly); err != nil {
			return err
		}
	}
	if err := unix.Chroot(p.Root); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(int(p.Group)); err != nil {
		return err
	}
	if err := syscall.Setuid(int(p.User)); err != nil {
		return err
	}
	program, err := exec.LookPath(p.Args[0])
	if err != nil {
		return err
	}
	return unix.Exec(program, p.Args, os.Environ())
}

// Makes an empty file or folder to mount something on.
func mountPoint(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(to, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, nil, 0o644)
}
