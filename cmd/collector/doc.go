// Command collector streams every change of one Kubernetes cluster, the site, into
// the log. It only reads from the cluster, its own Lease apart.
package main
