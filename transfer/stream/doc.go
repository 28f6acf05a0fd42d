// Package stream joins the two ends of a volume transfer by duplex byte streams.
//
// A Carrier brings bare connections: an in-process pipe, TCP where one end can
// reach the other (Direct), or a relay over NATS where neither can (Relay). None
// of them is trusted. Inside each runs the same TLS 1.3 session, in which both
// ends show a certificate that was made for this one transfer and that the other
// end has pinned; so it is the ends that are authenticated and no server between
// them reads, changes, reorders or replays anything. An identity opens one claim
// in one attempt, and expires.
//
// The destination opens streams (Opener), the source serves them (Serve). Each
// direction of a stream ends by itself (CloseWrite); an end that was not said is
// an error to the reader, never the end of the data.
//
// The relay adds what NATS does not have: credits, so that no more is on its way
// than a window that the receiver sizes by time; rewinding after a loss, so that a
// restart of a server does not end a stream; heartbeats; and epochs, so that
// frames of an earlier attempt mean nothing. Its memory is bounded by the window.
package stream
