// Command kube is a Kubernetes control plane and kubectl in one binary, for
// tests, the demo and benchmarks. The first argument selects the program, as
// busybox does:
//
//	kube etcd --dir DIR --client-addr HOST:PORT --peer-addr HOST:PORT
//	kube kube-apiserver ...
//	kube kube-controller-manager ...
//	kube kubectl ...
//
// All but etcd are the upstream commands, unchanged, built from their Go
// modules: nothing is downloaded ready-made.
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // the upstream commands register it in main
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	programs := map[string]func() *cobra.Command{
		"etcd":                    newEtcdCommand,
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllermanager.NewControllerManagerCommand,
		"kubectl":                 kubectl.NewDefaultKubectlCommand,
	}
	var program func() *cobra.Command
	if len(os.Args) > 1 {
		program = programs[os.Args[1]]
	}
	if program == nil {
		fmt.Fprintf(os.Stderr, "usage: kube PROGRAM [ARGUMENT ...], where PROGRAM is one of %v\n", slices.Sorted(maps.Keys(programs)))
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(cli.Run(program()))
}
