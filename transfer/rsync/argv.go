package rsync

import (
	"fmt"
	"strconv"
	"time"
)

// silence is how long rsync waits for its peer's next byte. The streams notice a
// dead peer earlier.
const silence = 2 * time.Minute

const (
	checksum    = "--checksum-choice=xxh128"
	compression = "zstd"
	compressTo  = 1
)

// serverArgs is the command line of the source's rsync for a request. It is what
// rsync's own client would ask for, built here.
func serverArgs(r Request, root string) []string {
	letters, increments := "-", "i"
	if r.Pass == PassSample || r.Pass == PassFull {
		letters += "n"
	}
	if r.Block {
		increments = ""
	} else {
		letters += "l"
		if r.Links {
			letters += "H"
		}
		letters += "ogDtp"
		if r.ACLs {
			letters += "A"
		}
		if r.Xattrs {
			letters += "X"
		}
		letters += "r"
	}
	if checks(r.Pass) {
		letters += "c"
	}
	if r.Block {
		letters += "I"
	}
	if r.Pass == PassSample {
		letters += "R"
	}
	if !checks(r.Pass) && r.Pass != PassDelete && !r.Block {
		letters += "S"
	}
	args := []string{"--server", "--sender", letters + "e." + increments + "LsfxCIvu"}
	if r.Compress {
		args = append(args, "--compress-level="+strconv.Itoa(compressTo))
	}
	args = append(args, timeoutArg(), checksum)
	if r.Compress {
		args = append(args, "--compress-choice="+compression)
	}
	if r.Pass == PassSample {
		args = append(args, "--ignore-missing-args")
	}
	if !r.Block {
		args = append(args, "--numeric-ids")
	}
	args = append(args, "--info=STATS2")
	if !checks(r.Pass) || r.Block {
		args = append(args, "--inplace")
	}
	if r.Block {
		args = append(args, "--copy-devices")
	}
	if r.Pass == PassSample {
		args = append(args, "--files-from=-", "--from0")
	}
	return append(args, ".", root)
}

func checks(p Pass) bool { return p == PassSample || p == PassFull }

func timeoutArg() string { return fmt.Sprintf("--timeout=%d", int(silence.Seconds())) }

// itemized is how a check tells a difference: what differs, a tab, the path.
const itemized = "--out-format=%i\t%n"

// clientArgs is the command line of the destination's rsync for a pass, to copy
// into root. limit is of deletions, list the file with a sample's paths, shim the
// remote shell.
func clientArgs(s Settings, r Request, root, shim, list string, limit int) []string {
	args := []string{
		timeoutArg(), checksum, "--info=stats2,progress2", "--outbuf=L", "--no-human-readable", "--rsh=" + shim,
	}
	if r.Compress {
		args = append(args, "--compress", "--compress-choice="+compression, "--compress-level="+strconv.Itoa(compressTo))
	}
	if checks(r.Pass) {
		args = append(args, "--checksum", "--dry-run", itemized)
	}
	if r.Block {
		args = append(args, "--copy-devices", "--write-devices", "--ignore-times")
		if r.Pass == PassData {
			args = append(args, "--inplace", "--no-whole-file")
		}
		return append(args, "--", "peer:"+anywhere, root)
	}
	args = append(args,
		"--recursive", "--links", "--perms", "--times", "--owner", "--group", "--devices", "--specials",
		"--numeric-ids", "--modify-window=-1")
	if r.Links {
		args = append(args, "--hard-links")
	}
	if r.ACLs {
		args = append(args, "--acls")
	}
	if r.Xattrs {
		args = append(args, "--xattrs")
	}
	for _, p := range s.Include {
		args = append(args, "--include="+p)
	}
	for _, p := range s.Exclude {
		args = append(args, "--exclude="+p)
	}
	args = append(args, "--exclude=/lost+found") // of the filesystem, not of the data
	switch r.Pass {
	case PassData:
		args = append(args, "--inplace", "--no-whole-file", "--sparse")
		if s.Delete {
			args = append(args, "--delete-delay", "--max-delete=0") // deletes nothing, and says how much it would
		}
	case PassReplace:
		args = append(args, "--inplace", "--no-whole-file", "--sparse", "--force", "--max-delete="+strconv.Itoa(limit))
	case PassDelete:
		args = append(args, "--inplace", "--no-whole-file",
			"--existing", "--ignore-existing", "--delete-delay", "--max-delete="+strconv.Itoa(limit))
	case PassSample:
		args = append(args, "--from0", "--files-from="+list, "--ignore-missing-args") // what only the destination has is no difference of content
	case PassFull:
		if s.Delete {
			args = append(args, "--delete")
		}
	}
	return append(args, "--", "peer:"+anywhere, root)
}

// anywhere is the path that rsync's client asks for. The source does not look at it.
const anywhere = "/"
