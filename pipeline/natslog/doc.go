// Package natslog keeps the log in NATS JetStream: in a server embedded in the
// process (StartServer) or in any NATS deployment (Connect).
//
// Per site there are these streams; names and subjects stand in names.go:
//
//	H_<site>_<epoch>  the history: append-only, refuses deletion and purge. One
//	                  stream per epoch; the newest one listens, older ones are closed.
//	C_<site>          the last message per Ref, sourced from the histories by the server.
//	B_<site>          bodies above the server's payload limit, in pieces (claim checks).
//	DLQ_<dest>        dead letters of a destination, one message per owner and Ref.
//	RES_<dest>        results of the runs into a destination, some hundreds in a message.
//
// One writer appends to a history: each append carries the last sequence that
// the writer knows, and the server refuses it if that is no longer the last
// one. That is the fence against a second writer, and it is also what makes an
// append happen at most once when its answer is lost: repeating it is refused,
// and the writer then looks whose append it was.
//
// Whoever is connected with full rights makes the streams itself. A site's
// collector at the embedded server has no such rights: it asks the steward, a
// small service beside the server, for the few things it needs (steward.go), so
// that a compromised source cluster can neither shorten its own history nor
// touch another site's.
//
// Promises: what Append acknowledged is on disk (sync-always is the default),
// delivered in order and without a hole, or the reader is told (ErrGap).
package natslog
