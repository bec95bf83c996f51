// What kubeadm 1.20 needs of crictl, over the Container Runtime Interface: kubeadm of that time reaches the runtime only
// through that program, and Debian has no package of it. Built within the source of Kubernetes, whose client code it uses.
//
//	crictl -r SOCKET info|pods -q|inspecti IMAGE|pull IMAGE|stopp POD|rmp POD
//
// Exits with 1 where the runtime refuses, and with 2 for what it does not know.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

func main() {
	if len(os.Args) < 4 || os.Args[1] != "-r" {
		unknown()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	socket := strings.TrimPrefix(os.Args[2], "unix://")
	dial := func(ctx context.Context, path string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	connection, err := grpc.DialContext(ctx, socket, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithContextDialer(dial))
	refuse(err)
	runtime, images := cri.NewRuntimeServiceClient(connection), cri.NewImageServiceClient(connection)
	verb, rest := os.Args[3], os.Args[4:]
	switch {
	case verb == "info" && len(rest) == 0:
		status, err := runtime.Status(ctx, &cri.StatusRequest{})
		refuse(err)
		fmt.Println(status.Status)
	case verb == "pods" && len(rest) == 1 && rest[0] == "-q":
		pods, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		refuse(err)
		for _, pod := range pods.Items {
			fmt.Println(pod.Id)
		}
	case verb == "inspecti" && len(rest) == 1:
		found, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: rest[0]}})
		refuse(err)
		if found.Image == nil {
			refuse(fmt.Errorf("no such image %q", rest[0]))
		}
		fmt.Println(found.Image.Id)
	case verb == "pull" && len(rest) == 1:
		pulled, err := images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: rest[0]}})
		refuse(err)
		fmt.Println(pulled.ImageRef)
	case verb == "stopp" && len(rest) == 1:
		_, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: rest[0]})
		refuse(err)
	case verb == "rmp" && len(rest) == 1:
		_, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: rest[0]})
		refuse(err)
	default:
		unknown()
	}
}

func refuse(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func unknown() {
	fmt.Fprintln(os.Stderr, "crictl: this one knows only what kubeadm calls, not", os.Args[1:])
	os.Exit(2)
}
