// Package transfer copies the data of a claim of one cluster into a claim of another.
//
// The destination decides: Step is a pure function of where a transfer stands (State), what the world looks like (World) and the
// time, and says where it stands next and what is to be done. All that is to be done may be repeated; its names follow
// from the transfer, the claim and the attempt, so that whoever does it again finds it done. Runner is the thin shell around it: it
// looks, steps, has the state written down, and only then acts. A mover is a Pod with a name made from its claim, so there
// is never a second one of one claim; Gate lets in no more transfers at once than it is told.
//
// The source obeys, within its Policy. The two sides have no connection of their own: the source asks, every few seconds and over
// the log, what is wished of it, and says in the same breath how it is doing (Board, Server). A wish that is not repeated lapses,
// and the source then removes what it made for it. Nothing but Pods and Secrets of ours is ever written there.
//
// The movers themselves are package transfer/rsync and transfer/stream, in cmd/rsync.
package transfer
