// Command bench measures the product's figures, each side by side with its
// yardstick in the same run, prints them as a table and writes
// test/bench/results.json. Run it with `make bench`, or one figure with
// `make bench ONLY=<name>`.
package main
