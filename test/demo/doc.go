// Command demo shows the main job on real parts, on one machine, without root:
// two Kubernetes control planes ("prod" and "dr"), the collector and the applier
// with the log embedded, and an application that lives in prod. It prints what
// arrived in dr and after how many milliseconds, compares both clusters object by
// object at the end, and exits with 0 only if nothing differs.
//
//	make demo          run it and clean up
//	make demo KEEP=1   leave everything running until Ctrl-C, to play with
//
// Times are from the return of the write in prod to the moment a watch of dr
// shows the result, so they hold everything between the two.
package main
