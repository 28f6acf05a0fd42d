// Package transform rewrites objects with jq rules on their way from one
// cluster to another.
//
// Rules are read from documents (the keys of ConfigMaps), compiled together
// with Compile into a Set, and run over one object at a time with Set.Run. The
// package is pure: it knows no cluster, writes no log and keeps no state
// between objects, so that the same rules over the same object give the same
// result wherever and whenever they run.
//
// What it promises:
//
//   - An object that no rule matches is not decoded, and comes back as the same
//     bytes.
//   - What a rule does not touch keeps its bytes: numbers of any size and the
//     order of keys included.
//   - A rule cannot run for ever, take unbounded memory, read the environment,
//     files or the clock, or crash the process. It fails with an *Error that
//     names the ConfigMap, the key and the rule.
//   - A Set that has one error has all of them reported at once, as Problems
//     that point into the jq.
//
// It does not write objects, does not look up parameters (Options.Lookup does)
// and does not decide what becomes of copies whose object a rule dropped.
package transform
