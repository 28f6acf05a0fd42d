// Package telemetry is the home of logging, tracing and metrics: every metric
// name, attribute key and log key of DR-Syncer stands in names.go, and no other
// package imports OpenTelemetry's SDK or a metrics library. Nothing here may
// ever be handed the body of an object.
package telemetry
