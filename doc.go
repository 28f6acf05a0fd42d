// Package drsyncer is the root of the module. It holds no code: the products are
// under cmd, and the packages that they are made of are listed, floor by floor,
// in floors_test.go, which keeps every import on its floor and every third-party
// library in its one home.
package drsyncer
