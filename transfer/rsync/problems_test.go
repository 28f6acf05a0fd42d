package rsync

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForeignRootIsNoFailure has what rsync 3.5.0 says as a user who does not own the
// root of the volume, and what may not be taken for it.
func TestForeignRootIsNoFailure(t *testing.T) {
	t.Parallel()
	const (
		times    = "rsync: [generator] failed to set times on \"/data/.\": Operation not permitted (1)\n"
		group    = "rsync: [receiver] chgrp \"/data/.\" failed: Operation not permitted (1)\n"
		sum      = "rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1956) [generator=3.5.0]\n"
		vanished = "file has vanished: \"/data/pg_wal/1\"\n"
		held     = "Deletions stopped due to --max-delete limit (3 skipped)\n"
	)
	cases := map[string]struct {
		root, said string
		code, want int
	}{
		"Times":          {"/data", times + sum, 23, 0},
		"Group":          {"/data/", group + times + sum, 23, 0},
		"OwnRoot":        {"", times + sum, 23, 23},
		"AnotherFile":    {"/data", times + "rsync: [generator] failed to set times on \"/data/x\": Operation not permitted (1)\n" + sum, 23, 23},
		"NotReadable":    {"/data", times + "rsync: [sender] send_files failed to open \"/data/x\": Permission denied (13)\n" + sum, 23, 23},
		"AnotherReason":  {"/data", "rsync: [generator] failed to set times on \"/data/.\": Read-only file system (30)\n" + sum, 23, 23},
		"NameThatLooks":  {"/data", "rsync: [generator] failed to set times on \"/data/.\": Operation not permitted (1)\": Operation not permitted (1)\n" + sum, 23, 23},
		"OtherDirectory": {"/data", "rsync: [generator] failed to set times on \"/data/x/.\": Operation not permitted (1)\n" + sum, 23, 23},
		"Vanished":       {"/data", vanished + times + sum, 23, 24},
		"HeldBack":       {"/data", held + times + sum, 23, 25},
		"Nothing":        {"/data", sum, 23, 23},
		"AnotherEnd":     {"/data", times, 11, 11},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &problems{root: tc.root}
			if _, err := p.Write([]byte(tc.said)); err != nil {
				t.Fatal(err)
			}
			if got := p.code(tc.code); got != tc.want {
				t.Errorf("the code is %d, want %d", got, tc.want)
			}
		})
	}
}

func TestCheckLeavesOutForeignRoot(t *testing.T) {
	t.Parallel()
	for except, want := range map[bool]int{false: 2, true: 1} {
		o := &output{itemized: true, exceptRoot: except}
		if _, err := o.Write([]byte(".d..tp.g...\t./\n>fcst......\tfile\n")); err != nil {
			t.Fatal(err)
		}
		if o.different != want {
			t.Errorf("without the root %v, %d differ, want %d", except, o.different, want)
		}
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	before, err := os.Stat(dir)
	must(t, err)
	if foreign(dir) {
		t.Error("our own directory is foreign")
	}
	if after, err := os.Stat(dir); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("looking has changed its time: %v", err)
	}
	if os.Geteuid() != 0 {
		if !foreign("/") {
			t.Error("root's directory is not foreign")
		}
		return
	}
	// As another user, with its lack of capabilities, to the filesystem. The thread ends with us.
	got := make(chan bool)
	go func() {
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(65532); err != nil {
			t.Error(err)
		}
		got <- foreign("/")
	}()
	if !<-got {
		t.Error("root's directory is not foreign to others")
	}
}
