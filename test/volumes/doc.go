// Package volumes holds tests of the mover as it is run: two processes on two
// directories, joined directly or through a NATS server, that are killed, frozen,
// cut off and lied to.
package volumes
