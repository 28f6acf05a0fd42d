// Package kubetest starts real Kubernetes API servers for tests, the demo and
// benchmarks: etcd and kube-apiserver (and, on request, the controller manager)
// as processes of one binary that `make kube` builds. A cluster is ready in
// about five seconds, has its own certificate authority, lives in one directory
// and dies with the process that started it.
//
// Tests use Start (one cluster for the test) or Shared (one for the package, with
// Main as TestMain); everything else uses Launch. Faults can be made: Stop, Start,
// Restart and Kill the server, Snapshot and Restore its store, CompactNow,
// cut or freeze the connection with a Proxy, and act as a User with no rights.
package kubetest
