package stream

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// abandonAfter has the kernel give a connection up whose data nobody acknowledges.
func abandonAfter(conn *net.TCPConn, d time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	return errors.Join(err, inner)
}
