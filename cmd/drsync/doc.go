// Command drsync looks into DR-Syncer and tries things out before they are in
// force: rules that rewrite objects, and what they would change. Installed under
// the name kubectl-drsync it is `kubectl drsync`.
//
// Each group of commands has a file; cli holds what all share: output, the
// cluster and the log.
package main
