// Package memlog is the log in memory, for tests and for trying things out: the
// same contract as package natslog, checked by the same suite, with a clock and
// failures that a test decides. Nothing outlives the process, and nothing is
// ever discarded except by Trim.
package memlog
