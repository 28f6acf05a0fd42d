package kubetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// given are the ports that this process has given out: whom they were given to may not listen yet.
var given sync.Map

// FreeAddress returns a loopback address (host:port) that nobody listens on, and that no other
// call in this process returns. Its port is below the range that outgoing connections take theirs
// from, so that it can be listened on again after a restart. It is safe for concurrent use.
func FreeAddress() (string, error) {
	var err error
	for range 100 {
		port := 15000 + rand.IntN(17000) //nolint:gosec // not a secret
		if _, used := given.LoadOrStore(port, true); used {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}
