package world

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// Movers are the two ends of a volume transfer, as processes on directories.
type Movers struct {
	// Dir is where everything but the data lies, Binary the mover, Rsync the program.
	Dir, Binary, Rsync string
	// From and To are the volumes.
	From, To string
	// Listen is where the source listens, if that is not the address that is dialed.
	Listen string
	// Relay is the URL of a NATS server; direct without one.
	Relay string
	// Limit is the destination's bandwidth in bytes per second.
	Limit    int64
	Settings rsync.Settings

	Source, Destination *Process
}

// MoverStatus is what a mover tells, as far as tests look at it.
type MoverStatus struct {
	Phase    string         `json:"phase"`
	Carrier  string         `json:"carrier"`
	Attempts int            `json:"attempts"`
	Sent     int64          `json:"sent"`
	Received int64          `json:"received"`
	Progress rsync.Progress `json:"progress"`
	Verdict  *rsync.Verdict `json:"verdict"`
	Reports  []rsync.Report `json:"reports"`
}

// moverConfig is the configuration file of a mover.
type moverConfig struct {
	Session  stream.Session      `json:"session"`
	Peer     stream.Pin          `json:"peer"`
	Root     string              `json:"root"`
	Listen   string              `json:"listen,omitempty"`
	Dial     []string            `json:"dial,omitempty"`
	Relay    *stream.RelayConfig `json:"relay,omitempty"`
	Rsync    rsync.Program       `json:"rsync"`
	Limit    int64               `json:"limit,omitempty"`
	Settings rsync.Settings      `json:"settings"`
}

// Prepare makes the session: identities and configurations of both ends. address is
// where the source listens, for the direct way.
func (m *Movers) Prepare(address string) error {
	session := stream.Session{ID: stream.NewSessionID(), Claim: "prod/data/db", Epoch: 1, Expires: time.Now().Add(time.Hour)}
	roles := []stream.Role{stream.Source, stream.Destination}
	ids := make([]stream.Identity, len(roles))
	for i, r := range roles {
		var err error
		if ids[i], err = stream.NewIdentity(session, r); err != nil {
			return err
		}
	}
	for i, r := range roles {
		c := moverConfig{
			Session: session, Peer: ids[1-i].Pin(), Root: []string{m.From, m.To}[i],
			Rsync: rsync.Program{Path: m.Rsync}, Settings: m.Settings, Limit: []int64{0, m.Limit}[i],
		}
		switch {
		case m.Relay != "":
			c.Relay = &stream.RelayConfig{URL: m.Relay}
		case r == stream.Source:
			c.Listen = cmp.Or(m.Listen, address)
		default:
			c.Dial = []string{address}
		}
		secret, err := ids[i].MarshalPEM()
		if err != nil {
			return err
		}
		dir := filepath.Join(m.Dir, r.String())
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "identity.pem"), secret, 0o600), m.write(r, c)); err != nil {
			return err
		}
	}
	m.Source, m.Destination = m.process(stream.Source), m.process(stream.Destination)
	return nil
}

func (m *Movers) write(r stream.Role, c moverConfig) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := m.path(r, "config.json")
	if err := os.WriteFile(path+".next", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".next", path)
}

func (m *Movers) path(r stream.Role, name string) string {
	return filepath.Join(m.Dir, r.String(), name)
}

// SetLimit changes the destination's limit in its configuration.
func (m *Movers) SetLimit(bytesPerSecond int64) error {
	text, err := os.ReadFile(m.path(stream.Destination, "config.json"))
	if err != nil {
		return err
	}
	var c moverConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	c.Limit = bytesPerSecond
	return m.write(stream.Destination, c)
}

func (m *Movers) process(r stream.Role) *Process {
	p := &Process{
		Name: r.String(), Path: m.Binary, Log: filepath.Join(m.Dir, r.String()+".log"),
		Args: []string{r.String(), "--config", m.path(r, "config.json"), "--status", m.path(r, "status.json"), "--listen", ""},
	}
	if r == stream.Destination {
		p.Args = append(p.Args, "--termination", m.path(r, "termination"))
	}
	return p
}

// Status is what an end told last.
func (m *Movers) Status(r stream.Role) (MoverStatus, error) {
	var s MoverStatus
	text, err := os.ReadFile(m.path(r, "status.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the status of the %s: %w", r, err)
	}
	return s, nil
}
