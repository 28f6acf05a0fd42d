// Command rsync is the mover of volume data: one process at the source that serves a
// volume and only reads it, one at the destination that copies it. It runs the real
// rsync at both ends and is what lies between them. Its configuration is a file made
// for one session; it holds no credentials of a cluster and calls no API.
package main
