// Package world is the stage of whole-program tests, the demo and the
// benchmarks: two real API servers, the product's real binaries as processes
// that can be stopped, killed, frozen and started again, made-up but realistic
// objects, and a comparison of two clusters that shares no code with the
// product.
package world
