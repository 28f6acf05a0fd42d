// Package node starts real Kubernetes clusters that run Pods, several on one
// machine: each has the control plane of kubetest, and one node of upstream
// kubelet, kube-proxy and scheduler with containerd and runc. Nothing is pulled:
// images are made from static programs. It needs root on Linux.
//
// A Lab is the clusters of one run. Each Cluster lives in a machine of its own: a
// process with its own network, mounts and process ids, in which everything else
// runs. When that process ends, and it ends with ours however that ends, the kernel
// ends all that runs in there, and takes the mounts, interfaces and packet rules with
// it. What is then left, files and empty cgroups, the next Lab removes. There is one
// Lab on a machine at a time; a second one waits.
//
// A Link joins two clusters' machines by a cable, and can be cut. Claims of the
// storage class "directory" are provided for by directories of the node.
package node
