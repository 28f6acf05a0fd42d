package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// config is the file that a mover is given for its session, most often from a Secret.
type config struct {
	Session stream.Session `json:"session"`
	// Peer is the pin of the other end's identity.
	Peer stream.Pin `json:"peer"`
	// Root is the directory or the device.
	Root string `json:"root"`
	// Listen is the address to wait for the peer at, Dial where the peer waits. At most
	// one of them; with none there is only the relay.
	Listen string   `json:"listen,omitempty"`
	Dial   []string `json:"dial,omitempty"`
	// Relay is the NATS to go over when there is no direct way.
	Relay *stream.RelayConfig `json:"relay,omitempty"`
	// Rsync is the program; "rsync" on the PATH if not given.
	Rsync rsync.Program `json:"rsync,omitzero"`
	// Limit is the bandwidth in bytes per second, 0 for no limit. The file is read again
	// while the mover runs, and a changed limit applies at once.
	Limit int64 `json:"limit,omitempty"`
	// Settings say what is copied. The source needs of them only Block.
	Settings rsync.Settings `json:"settings,omitzero"`
}

// identityFile is the end's own identity, beside the configuration.
const identityFile = "identity.pem"

// readConfig reads the configuration and the identity beside it.
func readConfig(path string, role stream.Role) (config, stream.End, error) {
	c, err := parseConfig(path)
	if err != nil {
		return config{}, stream.End{}, err
	}
	secret, err := os.ReadFile(filepath.Join(filepath.Dir(path), identityFile))
	if err != nil {
		return config{}, stream.End{}, fmt.Errorf("read the identity: %w", err)
	}
	identity, err := stream.ParseIdentity(secret)
	if err != nil {
		return config{}, stream.End{}, err
	}
	end := stream.End{Session: c.Session, Role: role, Identity: identity, Peer: c.Peer}
	if err := errors.Join(c.validate(), end.Validate()); err != nil {
		return config{}, stream.End{}, fmt.Errorf("check %s: %w", path, err)
	}
	return c, end, nil
}

func parseConfig(path string) (config, error) {
	text, err := os.ReadFile(path) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return config{}, fmt.Errorf("read the configuration: %w (check --config)", err)
	}
	var c config
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return config{}, fmt.Errorf("read %s: %w", path, err)
	}
	if c.Rsync.Path == "" {
		c.Rsync.Path = "/usr/bin/rsync"
	}
	return c, nil
}

func (c config) validate() error {
	var errs []error
	if !filepath.IsAbs(c.Root) || filepath.Clean(c.Root) == "/" {
		errs = append(errs, fmt.Errorf("the root %q is not the absolute path of a volume", c.Root))
	}
	if c.Listen != "" && len(c.Dial) > 0 {
		errs = append(errs, errors.New("both listen and dial are given: one end listens, the other dials"))
	}
	if c.Listen == "" && len(c.Dial) == 0 && c.Relay == nil {
		errs = append(errs, errors.New("there is no way to the peer: give listen, dial or relay"))
	}
	if c.Limit < 0 {
		errs = append(errs, errors.New("the limit is negative"))
	}
	return errors.Join(append(errs, c.Settings.Validate())...)
}
