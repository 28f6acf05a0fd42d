// Command applier keeps one Kubernetes cluster, the destination, in step with the
// histories of others, as its Replications ask. Unless --nats-url names another
// log, the log lives in this process too.
package main
