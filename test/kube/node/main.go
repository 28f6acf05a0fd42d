// Command kube-node is what a Kubernetes node and its scheduling take, in one
// binary beside kube, for the tests that run pods. The first argument selects
// the program:
//
//	kube-node kubelet ...
//	kube-node kube-proxy ...
//	kube-node kube-scheduler ...
//
// They are the upstream commands, unchanged, built from their Go modules. They
// are no part of kube, so that who runs no pods need not wait until they are built.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // the upstream commands register it in main
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	programs := map[string]func() *cobra.Command{
		"kubelet":        func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"kube-proxy":     proxy.NewProxyCommand,
		"kube-scheduler": func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	}
	var program func() *cobra.Command
	if len(os.Args) > 1 {
		program = programs[os.Args[1]]
	}
	if program == nil {
		fmt.Fprintf(os.Stderr, "usage: kube-node PROGRAM [ARGUMENT ...], where PROGRAM is one of %v\n", slices.Sorted(maps.Keys(programs)))
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(cli.Run(program()))
}
