// Package guards drives a collector, a log and the destination side through faults of the source, all in one
// process and in fake time: whatever happens, nothing is deleted that exists.
package guards
