// Package faults runs the real binaries between two real API servers and does
// to them what happens to programs: they are killed, frozen, stopped and cut
// off at random moments. Whatever was done, the destination must end equal to
// the source. Every random run prints its seed; set DRS_SEED to run it again.
package faults
