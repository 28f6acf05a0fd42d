// Package e2e runs the product as its users do: as Pods, in two clusters with real
// nodes that share nothing but a cable, which can be cut. `make e2e` runs its tests;
// they have the build tag e2e, because they need root.
package e2e
