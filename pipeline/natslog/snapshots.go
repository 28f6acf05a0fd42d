package natslog

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// SnapshotOptions are the limits of the store of snapshots. It is made by the first
// snapshot of any site; a later one raises what is lower there, and lowers nothing.
type SnapshotOptions struct {
	// MaxBytes bounds all sites' snapshots together. At the limit making one fails.
	MaxBytes int64
	// Replicas is the number of servers that hold them: 1, 3 or 5, or 0 as for StreamOptions.
	Replicas int
}

// DefaultSnapshotOptions suit one embedded server beside DefaultStreamOptions.
func DefaultSnapshotOptions() SnapshotOptions {
	return SnapshotOptions{MaxBytes: 1 << 30}
}

// minSnapshotBytes holds a snapshot of any site in two pieces; less is a mistake.
const minSnapshotBytes = 1 << 20

// Validate says what is wrong.
func (o SnapshotOptions) Validate() error {
	if o.MaxBytes < minSnapshotBytes {
		return fmt.Errorf("%d bytes are too few for the store of snapshots: give %d at least", o.MaxBytes, minSnapshotBytes)
	}
	return nil
}

const (
	snapshotBucket = "drs-snapshots"
	// snapshotStream and snapshotChunks are how the server names what is in it.
	snapshotStream = "OBJ_" + snapshotBucket
	snapshotChunks = "$O." + snapshotBucket + ".C."
	snapshotMetas  = "$O." + snapshotBucket + ".M."
	metaManifest   = "drs.manifest"
	// snapshotChunk is the size of the pieces of a file.
	snapshotChunk = 512 << 10
	// snapshotTimeout bounds storing or reading one file.
	snapshotTimeout = time.Hour
)

// Snapshots keeps the snapshots of one site in the log's object store; see
// pipeline.Snapshots. It is safe for concurrent use.
type Snapshots struct {
	conn    *Conn
	site    site
	options SnapshotOptions
}

var _ pipeline.Snapshots = (*Snapshots)(nil)

// Snapshots keeps the snapshots of a site, which need not have a history here.
func (c *Conn) Snapshots(siteName string, opts SnapshotOptions) *Snapshots {
	return &Snapshots{conn: c, site: siteOf(siteName), options: opts}
}

// object is what the store calls a snapshot of the site.
func (s *Snapshots) object(name string) string { return s.site.token + "/" + name }

// bucket opens the store, or nil if there is none yet.
func (s *Snapshots) bucket(ctx context.Context) (store jetstream.ObjectStore, err error) {
	err = s.conn.do(ctx, func(ctx context.Context) error {
		store, err = s.conn.js.ObjectStore(ctx, snapshotBucket)
		return err
	})
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	return store, err
}

// made opens the store and makes it if there is none.
func (s *Snapshots) made(ctx context.Context) (store jetstream.ObjectStore, err error) {
	if store, err = s.bucket(ctx); err != nil {
		return nil, err
	}
	if store != nil {
		if err := s.adjust(ctx); err != nil {
			return nil, err
		}
		if err := (&local{conn: s.conn}).spreadMore(ctx, snapshotStream, s.options.Replicas); err != nil {
			return nil, err
		}
		return s.bucket(ctx) // as it is now
	}
	err = s.conn.replicate(snapshotStream, s.options.Replicas, func(replicas int) error {
		return s.conn.do(ctx, func(ctx context.Context) error {
			store, err = s.conn.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
				Bucket: snapshotBucket, Description: "snapshots of sites", Storage: jetstream.FileStorage,
				MaxBytes: s.options.MaxBytes, Replicas: replicas,
				Metadata: map[string]string{metaFormat: formatVersion},
			})
			return err
		})
	})
	if err == nil {
		err = s.adjust(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("make the store of snapshots: %w", err)
	}
	return s.bucket(ctx) // as it is now
}

// adjust gives the store the size that is wished, if that is more than it has. On a cluster it has what is read come
// from who leads it: of the others one that follows late would not know what was stored a moment ago.
func (s *Snapshots) adjust(ctx context.Context) error {
	var stream jetstream.Stream
	err := s.conn.do(ctx, func(ctx context.Context) (err error) {
		if stream, err = s.conn.js.Stream(ctx, snapshotStream); err != nil {
			return err
		}
		have := stream.CachedInfo().Config
		next := have
		next.MaxBytes = larger(have.MaxBytes, s.options.MaxBytes)
		next.AllowDirect = have.AllowDirect && !s.conn.clustered()
		if next.MaxBytes == have.MaxBytes && next.AllowDirect == have.AllowDirect {
			return nil
		}
		stream, err = s.conn.js.UpdateStream(ctx, next)
		return err
	})
	if err == nil {
		err = s.conn.served(ctx, stream)
	}
	if err != nil {
		return fmt.Errorf("adjust the store of snapshots: %w", explainAPI(err))
	}
	return nil
}

// Put implements pipeline.Snapshots.
func (s *Snapshots) Put(ctx context.Context, m pipeline.Manifest, file io.Reader) error {
	if err := s.put(ctx, m, file); err != nil {
		return fmt.Errorf("store snapshot %q of site %q: %w", m.Name, s.site.name, err)
	}
	return nil
}

func (s *Snapshots) put(ctx context.Context, m pipeline.Manifest, file io.Reader) error {
	if m.Name == "" {
		return errors.New("it has no name")
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	store, err := s.made(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	info := jetstream.ObjectInfo{Bucket: snapshotBucket, NUID: nuid.Next(), ObjectMeta: jetstream.ObjectMeta{
		Name: s.object(m.Name), Metadata: map[string]string{metaManifest: string(manifest)},
		Opts: &jetstream.ObjectMetaOptions{ChunkSize: snapshotChunk},
	}}
	before, err := store.GetInfo(ctx, info.Name)
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return explainAPI(err)
	}
	if err := s.upload(ctx, &info, file); err != nil {
		gone := s.purge(context.WithoutCancel(ctx), info.NUID)
		return errors.Join(err, gone)
	}
	if before != nil {
		return s.purge(ctx, before.NUID)
	}
	return nil
}

// upload stores a file the way object stores do: its pieces, each acknowledged, then
// what describes it, which is what makes it there.
func (s *Snapshots) upload(ctx context.Context, info *jetstream.ObjectInfo, file io.Reader) error {
	sum, piece := sha256.New(), make([]byte, snapshotChunk)
	for last := false; !last; {
		n, err := io.ReadFull(file, piece)
		if last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); err != nil && !last {
			return err
		}
		if n == 0 {
			break
		}
		sum.Write(piece[:n])
		if err := s.store(ctx, &nats.Msg{Subject: snapshotChunks + info.NUID, Header: nats.Header{}, Data: piece[:n]}); err != nil {
			return err
		}
		info.Size += uint64(n) //nolint:gosec // G115: not negative
		info.Chunks++
	}
	info.Digest = jetstream.GetObjectDigestValue(sum)
	described, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode the description: %w", err)
	}
	return s.store(ctx, &nats.Msg{
		Subject: snapshotMetas + base64.URLEncoding.EncodeToString([]byte(info.Name)),
		Header:  nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupSubject}}, Data: described,
	})
}

func (s *Snapshots) store(ctx context.Context, msg *nats.Msg) error {
	msg.Header[headerExpectStream] = []string{snapshotStream}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := s.conn.request(ctx, msg)
	if hasCode(err, codeStoreFailed) {
		err = fmt.Errorf("%w: the store of snapshots is at its limit: %w", ErrFull, err)
	}
	return explainAPI(err)
}

// purge removes the pieces of a file.
func (s *Snapshots) purge(ctx context.Context, id string) error {
	err := s.conn.do(ctx, func(ctx context.Context) error { return purge(ctx, s.conn.nc, snapshotStream, snapshotChunks+id, 0) })
	if err != nil {
		return fmt.Errorf("remove the pieces of a file: %w", err)
	}
	return nil
}

// List implements pipeline.Snapshots.
func (s *Snapshots) List(ctx context.Context) ([]pipeline.Manifest, error) {
	objects, err := s.objects(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the snapshots of site %q: %w", s.site.name, err)
	}
	var list []pipeline.Manifest
	for _, o := range objects {
		if !strings.HasPrefix(o.Name, s.object("")) {
			continue
		}
		var m pipeline.Manifest
		err := json.Unmarshal([]byte(o.Metadata[metaManifest]), &m)
		if err != nil || m.Site != s.site.name || o.Name != s.object(m.Name) {
			s.conn.log.Warn("a stored snapshot has no valid manifest", slog.String(telemetry.KeyName, o.Name))
			continue
		}
		m.Size = int64(o.Size) //nolint:gosec // G115: a size on disk
		list = append(list, m)
	}
	slices.SortFunc(list, pipeline.CompareManifests)
	return list, nil
}

func (s *Snapshots) objects(ctx context.Context) (objects []*jetstream.ObjectInfo, err error) {
	store, err := s.bucket(ctx)
	if err != nil || store == nil {
		return nil, err
	}
	err = s.conn.do(ctx, func(ctx context.Context) error {
		objects, err = store.List(ctx)
		if errors.Is(err, jetstream.ErrNoObjectsFound) {
			err = nil
		}
		return err
	})
	return objects, err
}

// Open implements pipeline.Snapshots. Reading ends with ctx.
func (s *Snapshots) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	store, err := s.bucket(ctx)
	if err == nil && store == nil {
		err = pipeline.ErrNoSnapshot
	}
	var object jetstream.ObjectResult
	cancel := context.CancelFunc(func() {})
	if err == nil {
		ctx, cancel = context.WithTimeout(ctx, snapshotTimeout)
		object, err = store.Get(ctx, s.object(name))
		if errors.Is(err, jetstream.ErrObjectNotFound) {
			err = pipeline.ErrNoSnapshot
		}
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open snapshot %q of site %q: %w", name, s.site.name, explainAPI(err))
	}
	return &snapshotFile{Reader: bufio.NewReaderSize(object, snapshotChunk), object: object, cancel: cancel}, nil
}

// snapshotFile reads a stored file.
type snapshotFile struct {
	*bufio.Reader
	object jetstream.ObjectResult
	cancel context.CancelFunc
}

func (f *snapshotFile) Close() error {
	defer f.cancel()
	return f.object.Close()
}

// Delete implements pipeline.Snapshots. It also removes what interrupted storing has
// left behind, of any site.
func (s *Snapshots) Delete(ctx context.Context, name string) error {
	if err := s.delete(ctx, name); err != nil {
		return fmt.Errorf("delete snapshot %q of site %q: %w", name, s.site.name, explainAPI(err))
	}
	return nil
}

func (s *Snapshots) delete(ctx context.Context, name string) error {
	store, err := s.bucket(ctx)
	if err != nil || store == nil {
		return err
	}
	err = s.conn.do(ctx, func(ctx context.Context) error { return store.Delete(ctx, s.object(name)) })
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return err
	}
	return s.collectPieces(ctx, time.Now().Add(-2*snapshotTimeout))
}

// collectPieces removes the pieces of files that were never completed, if they are
// from before a time.
func (s *Snapshots) collectPieces(ctx context.Context, before time.Time) error {
	objects, err := s.objects(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, o := range objects {
		used[snapshotChunks+o.NUID] = true
	}
	return s.conn.do(ctx, func(ctx context.Context) error {
		stream, err := s.conn.js.Stream(ctx, snapshotStream)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(snapshotChunks+"*"))
		if err != nil {
			return err
		}
		for subject := range info.State.Subjects {
			if used[subject] {
				continue
			}
			last, err := stream.GetLastMsgForSubject(ctx, subject)
			if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && last.Time.After(before) {
				continue
			}
			if err == nil {
				err = purge(ctx, s.conn.nc, snapshotStream, subject, 0)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
