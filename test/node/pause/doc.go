// Command pause does nothing until it is told to end, and buries the processes
// whose parents have left them: it is the first process of every Pod, and of the
// machine of a cluster.
package main
