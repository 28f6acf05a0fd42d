// Package traces proves that every change is one trace, from its observation at
// the source to the write at the destination, through a real API server and a
// real log.
package traces
