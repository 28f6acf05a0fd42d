// Package rsync copies the data of one volume with rsync, over streams that it is
// given. The destination runs rsync as a client and the source runs it as a server
// that only reads; each end builds its own command line from a typed Request, so
// that nothing a peer says becomes an argument, and neither a shell nor ssh nor a
// daemon is involved.
//
//	destination                                   source
//	Copier -> rsync ... -e shim  ==  stream  ==  Server -> rsync --server --sender
//
// rsync starts the shim as its remote shell. The shim hands its two descriptors to
// the Copier, which does all the copying and holds all the keys, and ends with the
// code that it is told.
//
// A copy is a sequence of passes (Plan): data without deletions, then deletions if
// there are any, the data pass was clean and they are within the limit, then
// verification. Files are written in place: a pass that was killed anywhere goes on
// where it was when it is run again, and the copy is whole when all passes are done.
package rsync
