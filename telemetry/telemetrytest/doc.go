// Package telemetrytest shows a test what a program reported: the spans it
// ended and the metrics it counted. What it installs is global to the process,
// so tests that use it must not run in parallel with one another.
package telemetrytest
