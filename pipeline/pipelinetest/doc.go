// Package pipelinetest is the test kit of package pipeline: well-formed events
// to build cases from, a sink that fails by script and watches what it is
// promised, and TestLog, the suite that every implementation of the log passes.
package pipelinetest
