// Package app is the frame that a program of DR-Syncer stands in: it starts the
// program's units in order, serves health, metrics and profiles on a side port,
// and at a signal or the first failure stops the units in reverse order, each
// within its time limit, so that nothing is taken in that has nowhere to go.
//
// It knows no Kubernetes: a unit is a function that runs until its
// context ends. Of the log it knows what the flags of every program say of it. Leader election is a unit too: those behind it start once it
// leads, and losing the lead ends the program.
package app
