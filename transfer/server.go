package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// Server is the source's half: it asks what is wished, and serves it as far as the policy allows. What it makes lives as long as the wish is
// repeated, and no longer than its session.
type Server struct {
	// Site is the source.
	Site   string
	Client *kube.Client
	// Ask sends a question to all destinations and returns what they answer: none if nobody is there.
	Ask    func(ctx context.Context, question []byte) ([][]byte, error)
	Policy func() Policy
	Image  Image
	Log    *slog.Logger

	leases  map[string]lease // by session
	answers map[string]Answer
	floors  map[string]floor // by transfer
	over    map[string]bool  // sessions that were said to be over
	began   time.Time
	looked  time.Time // when what is left over was looked for last
	silent  bool      // nobody could be asked
}

// lease is a wish that was heard, and how long it stands.
type lease struct {
	wish  Wish
	until time.Time
}

// floor is the lowest epoch of a transfer that means anything, once a wish for it was heard. What is wished in a lower one comes late.
type floor struct {
	epoch uint64
	until time.Time
}

const (
	// askEvery is the time between two questions.
	askEvery = 2 * time.Second
	// leaseTime is how long a wish stands that is not heard again; as long after a start nothing is taken for left over.
	leaseTime = time.Minute
	// floorTime is how long late wishes may come.
	floorTime = 5 * leaseTime
	// lookEvery is how often what is left over is looked for while nothing is wished.
	lookEvery = time.Minute
)

var namespaces = kube.Kind{
	GroupResource: pipeline.GroupResource{Resource: "namespaces"}, Version: "v1", Kind: "Namespace", StatusSubresource: true,
}

// Run serves until ctx ends. It is called once, by one process of those that share a source. What was made stays then, for
// whoever runs next, until its session has expired.
func (s *Server) Run(ctx context.Context) error {
	s.begin()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		s.turn(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Server) begin() {
	s.leases, s.answers, s.floors, s.began = map[string]lease{}, map[string]Answer{}, map[string]floor{}, time.Now()
}

// turn asks, serves and cleans up once.
func (s *Server) turn(ctx context.Context) {
	err := s.ask(ctx)
	if silent := err != nil; silent != s.silent && ctx.Err() == nil {
		s.silent = silent
		if silent {
			s.Log.WarnContext(ctx, "cannot ask what is wished of the volumes", telemetry.KeyError, err)
		}
	}
	now := time.Now()
	for id, l := range s.leases {
		if now.After(l.until) || now.After(l.wish.Session.Expires) {
			delete(s.leases, id)
			s.looked = time.Time{}
		}
	}
	for transfer, f := range s.floors {
		if now.After(f.until) {
			delete(s.floors, transfer)
		}
	}
	live := s.live()
	for _, w := range live {
		a, err := s.tend(ctx, w)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.Log.WarnContext(ctx, "cannot serve a volume yet", telemetry.KeyName, w.Session.Claim, telemetry.KeyError, err)
			if a = (Answer{Session: w.Session.ID, State: SourcePreparing, Message: "its API server does not do what it is asked"}); pipeline.ClassOf(err) == pipeline.Forbidden {
				a.Message = "the collector lacks a permission there, see docs/rbac.md"
			}
		}
		s.answers[w.Session.ID] = a
	}
	if len(live) == 0 && now.Sub(s.looked) < lookEvery {
		return
	}
	if s.looked = now; s.clean(ctx, live, now) != nil {
		s.looked = time.Time{} // again at the next turn
	}
}

// ask tells the answers and takes what is wished.
func (s *Server) ask(ctx context.Context) error {
	q := question{Version: wireVersion, Answers: []Answer{}}
	for _, id := range slices.Sorted(maps.Keys(s.answers)) {
		q.Answers = append(q.Answers, s.answers[id])
	}
	q.Answers = q.Answers[:min(len(q.Answers), maxEntries)]
	text, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode the answers: %w", err)
	}
	replies, err := s.Ask(ctx, text)
	if err != nil {
		return err
	}
	var errs []error
	now, over := time.Now(), map[string]bool{}
	defer func() { s.over = over }()
	for _, text := range replies {
		r, err := parseReply(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, id := range r.Over {
			if l, ok := s.leases[id]; ok {
				s.raise(l.wish.Transfer, l.wish.Session.Epoch+1, now)
				delete(s.leases, id)
			}
			if over[id] = true; !s.over[id] {
				s.looked = time.Time{} // what it leaves is removed at once
			}
		}
		for _, w := range r.Wishes {
			if site, _, _, ok := w.parts(); ok && site == s.Site && now.Before(w.Session.Expires) && w.Session.Expires.Before(now.Add(maxSession)) {
				if s.raise(w.Transfer, w.Session.Epoch, now) {
					s.leases[w.Session.ID] = lease{w, now.Add(leaseTime)}
				}
			}
		}
	}
	return errors.Join(errs...)
}

// raise has no epoch of a transfer below this one mean anything, and reports whether this one does.
func (s *Server) raise(transfer string, epoch uint64, now time.Time) bool {
	f := s.floors[transfer]
	s.floors[transfer] = floor{max(f.epoch, epoch), now.Add(floorTime)}
	return epoch >= f.epoch
}

// live are the wishes that stand: those of each transfer's highest epoch.
func (s *Server) live() map[string]Wish {
	live := map[string]Wish{}
	for id, l := range s.leases {
		if l.wish.Session.Epoch < s.floors[l.wish.Transfer].epoch {
			delete(s.leases, id)
			continue
		}
		live[id] = l.wish
	}
	for id := range s.answers {
		if _, ok := live[id]; !ok {
			delete(s.answers, id)
		}
	}
	return live
}

// tend looks at what is there for a wish, makes what is not, and returns the answer.
func (s *Server) tend(ctx context.Context, w Wish) (Answer, error) {
	seen, err := s.observe(ctx, w)
	if err != nil {
		return Answer{}, err
	}
	do := serve(s.Policy(), w, seen)
	if do.make {
		if err := s.make(ctx, w, seen, do); err != nil {
			return Answer{}, err
		}
		return do.answer, nil
	}
	if do.answer.State == SourceServing {
		identity, err := stream.ParseIdentity(seen.secret.Data[identityKey])
		if err != nil {
			return Answer{}, err
		}
		do.answer.Pin = identity.Pin()
	}
	return do.answer, nil
}

// observe looks at what is there for a wish.
func (s *Server) observe(ctx context.Context, w Wish) (scene, error) {
	_, namespace, name, _ := w.parts()
	var out scene
	for _, get := range []struct {
		kind            kube.Kind
		namespace, name string
		take            func(kube.Object) error
	}{
		{namespaces, "", namespace, into(&out.namespace)},
		{claims, namespace, name, into(&out.claim)},
		{pods, namespace, serverName(w.Session.ID), into(&out.pod)},
		{kube.Secrets, namespace, serverName(w.Session.ID), into(&out.secret)},
	} {
		o, err := s.Client.Get(ctx, get.kind, get.namespace, get.name)
		if kube.IsNotFound(err) {
			continue
		} else if err == nil {
			err = get.take(o)
		}
		if err != nil {
			return scene{}, err
		}
	}
	if out.claim == nil {
		return out, nil
	}
	found, err := s.Client.Find(ctx, pods, namespace, LabelEnd+"!="+sourceEnd)
	if err != nil {
		return scene{}, err
	}
	for _, f := range found {
		p, err := decode[corev1.Pod](f)
		if err != nil {
			return scene{}, err
		}
		if uses(p, name) {
			out.users = append(out.users, p)
		}
	}
	return out, nil
}

func into[T any](to **T) func(kube.Object) error {
	return func(o kube.Object) (err error) {
		*to, err = decode[T](o)
		return err
	}
}

// make makes the Secret and the Pod of a session, as far as they are not there.
func (s *Server) make(ctx context.Context, w Wish, seen scene, do serving) error {
	_, namespace, name, _ := w.parts()
	marks := map[string]string{
		LabelTransfer: w.Transfer, LabelEpoch: strconv.FormatUint(w.Session.Epoch, 10), LabelEnd: sourceEnd, LabelSession: w.Session.ID,
		v1alpha1.LabelIgnore: "true", // it is nothing to replicate
	}
	block := do.answer.Facts != nil && do.answer.Facts.Block
	if seen.secret == nil {
		identity, err := newIdentity(w.Session, stream.Source)
		if err != nil {
			return err
		}
		body, err := secret(namespace, serverName(w.Session.ID), marks, nil, identity, &moverConfig{
			Session: w.Session, Peer: w.Peer, Root: root(block), Listen: ":" + strconv.Itoa(moverPort), Relay: s.Image.Relay, Rsync: s.Image.Rsync,
			Settings: rsync.Settings{Block: block},
		})
		if err != nil {
			return err
		}
		if err := made(create(ctx, s.Client, kube.Secrets, namespace, body)); err != nil {
			return err
		}
	}
	if seen.pod != nil {
		return nil
	}
	pod := moverPod{
		image: s.Image, role: stream.Source, namespace: namespace, name: serverName(w.Session.ID), labels: marks, claim: name, secret: serverName(w.Session.ID),
		block: block, privileged: w.Privileged, node: do.node, deadline: time.Until(w.Session.Expires) + endPatience,
	}
	if err := made(create(ctx, s.Client, pods, namespace, pod.build())); err != nil {
		return err
	}
	s.Log.InfoContext(ctx, "serving a volume", telemetry.KeyNamespace, namespace, telemetry.KeyName, name, telemetry.KeyEpoch, w.Session.Epoch)
	return nil
}

// clean removes what no wish stands for.
func (s *Server) clean(ctx context.Context, live map[string]Wish, now time.Time) error {
	settled := now.Sub(s.began) > leaseTime // whoever wishes has been heard since the start
	voids := map[string]uint64{}            // transfers, and the epoch below which all is void
	for _, w := range live {
		voids[w.Transfer] = w.Session.Epoch
	}
	var errs []error
	for _, k := range []kube.Kind{pods, kube.Secrets} {
		found, err := s.Client.Find(ctx, k, "", LabelEnd+"="+sourceEnd)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, f := range found {
			m, err := kube.MetaOf(f)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			epoch, _ := strconv.ParseUint(m.Labels[LabelEpoch], 10, 64) // 0 is of no attempt
			_, wished := live[m.Labels[LabelSession]]
			if wished || m.Deleting || f.Name != serverName(m.Labels[LabelSession]) || !settled && !s.over[m.Labels[LabelSession]] && epoch >= voids[m.Labels[LabelTransfer]] {
				continue
			}
			errs = append(errs, gone(s.Client.Delete(ctx, k, f.Namespace, f.Name, f.UID)))
		}
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		s.Log.WarnContext(ctx, "cannot remove all that served volumes", telemetry.KeyError, err)
		return err
	}
	return nil
}
