package rsync

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ShimSocket is the environment variable by which the shim finds its Copier.
const ShimSocket = "DRS_SHIM_SOCKET"

// Shim is what rsync starts as its remote shell. It hands its standard input and
// output to the Copier that started rsync, and returns the exit code that it is
// told. It looks at no argument, and holds neither data nor keys.
func Shim() int {
	code, err := shim(os.Getenv(ShimSocket))
	if err != nil {
		fmt.Fprintln(os.Stderr, "shim:", err)
		return codeLost
	}
	return code
}

func shim(socket string) (int, error) {
	if socket == "" {
		return 0, errors.New("this command is for rsync to start")
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0, fmt.Errorf("reach the mover: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(0, 1), nil); err != nil {
		return 0, fmt.Errorf("hand the descriptors over: %w", err)
	}
	// Held here as well, they would keep rsync from seeing the end of the session.
	if err := errors.Join(os.Stdin.Close(), os.Stdout.Close()); err != nil {
		return 0, fmt.Errorf("let the descriptors go: %w", err)
	}
	var code [1]byte
	if n, err := conn.Read(code[:]); n != 1 {
		return 0, fmt.Errorf("wait for the mover: %w", err)
	}
	return int(code[0]), nil
}

// shimDoor is where one shim comes in.
type shimDoor struct {
	listener *net.UnixListener
	path     string
}

func openDoor(path string) (*shimDoor, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("wait for the shim: %w", err)
	}
	return &shimDoor{l, path}, nil
}

// caller is a shim that has handed over its descriptors.
type caller struct {
	conn     *net.UnixConn
	from, to *os.File // rsync's words, and ours to it
}

// next waits for a shim; closing the door ends the wait.
func (d *shimDoor) next() (*caller, error) {
	conn, err := d.listener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	const descriptors = 2
	oob := make([]byte, unix.CmsgSpace(descriptors*4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	var fds []int
	if messages, err := unix.ParseSocketControlMessage(oob[:n]); err == nil && len(messages) == 1 {
		fds, _ = unix.ParseUnixRights(&messages[0]) // none: told below
	}
	if len(fds) != descriptors {
		return nil, errors.Join(errors.New("the shim brought no descriptors"), conn.Close())
	}
	files := make([]*os.File, descriptors)
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		_ = unix.SetNonblock(fd, true) // so that closing it ends a read
		files[i] = os.NewFile(uintptr(fd), "of rsync")
	}
	return &caller{conn, files[0], files[1]}, nil
}

// dismiss ends the shim with a code.
func (c *caller) dismiss(code int) {
	_ = c.from.Close()
	_ = c.to.Close()
	const most = 255
	_, _ = c.conn.Write([]byte{byte(min(code, most))}) //nolint:gosec // G115: within a byte. rsync may be gone already
	_ = c.conn.Close()
}
