package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var (
	digestA = pipeline.DigestOf([]byte("a"))
	digestB = pipeline.DigestOf([]byte("b"))
)

func position(seq uint64) pipeline.Position { return pipeline.Position{Epoch: "E", Seq: seq} }

// put is a record of shop/a at position 5.
func put(change ...func(*pipeline.Record)) pipeline.Record {
	r := pipeline.Record{
		Event:    pipeline.Event{Ref: pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: "a"}, Op: pipeline.OpPut, UID: "u1"},
		Position: position(5),
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func tombstone(change ...func(*pipeline.Record)) pipeline.Record {
	return put(append([]func(*pipeline.Record){func(r *pipeline.Record) {
		r.Op, r.Evidence = pipeline.OpDelete, pipeline.EvidenceWatch
	}}, change...)...)
}

func at5(seq uint64) func(*pipeline.Record) {
	return func(r *pipeline.Record) { r.Position = position(seq) }
}

// copyOf is our copy of shop/a, made at position 4.
func copyOf(change ...func(*entry)) entry {
	e := entry{
		holder: marked, mark: "me", uid: "c1", digest: digestA, source: "a",
		origin: Origin{Site: "prod", Position: position(4), UID: "u1", Namespace: "shop"},
	}
	for _, c := range change {
		c(&e)
	}
	return e
}

func TestDecide(t *testing.T) {
	adopt := func(p *policy) { p.adopt = true }
	retain := func(p *policy) { p.retain = true }
	orphans := func(p *policy) { p.adopt, p.orphaned = true, func(m string) bool { return m == "late" } }
	displaced := func(p *policy) { p.displaced = func(e entry) bool { return e.origin.Namespace == "old" } }
	create := action{verb: doApply, fresh: true}
	adopted := action{verb: doApply}
	update := action{verb: doApply, uid: "c1"}
	remove := action{verb: doDelete, uid: "c1"}
	unchanged := action{verb: doNothing, result: pipeline.ResultUnchanged}
	same := action{verb: doNothing, uid: "c1", result: pipeline.ResultUnchanged}
	skipped := action{verb: doNothing, result: pipeline.ResultSkipped}
	refused := action{verb: doRefuse, class: pipeline.Foreign}
	behind := action{verb: doRefuse, class: pipeline.Foreign, behind: true}
	astray := func(p *policy) { p.stray = true }
	ofB := func(e *entry) { e.origin.Name, e.source = "b", "b" }
	malformed := action{verb: doRefuse, class: pipeline.Malformed}

	cases := map[string]struct {
		record pipeline.Record
		entry  entry
		policy func(*policy)
		want   action
		reason string
	}{
		"put, nothing there":              {record: put(), want: create},
		"put, foreign":                    {record: put(), entry: entry{holder: foreign}, want: refused},
		"put, foreign, adopt":             {record: put(), entry: entry{holder: foreign}, policy: adopt, want: adopted},
		"put, raised for our copy":        {record: put(), entry: entry{holder: foreign, uid: "c1", raised: true}, want: update},
		"delete, raised for our copy":     {record: tombstone(), entry: entry{holder: foreign, uid: "c1", raised: true}, want: skipped},
		"put, another's":                  {record: put(), entry: copyOf(func(e *entry) { e.mark = "other" }), want: refused},
		"put, another's, adopt":           {record: put(), entry: copyOf(func(e *entry) { e.mark = "other" }), policy: orphans, want: refused, reason: "two Replications would fight"},
		"put, orphan":                     {record: put(), entry: copyOf(func(e *entry) { e.mark = "late" }), want: refused, reason: "the policy is to refuse"},
		"put, orphan, adopt":              {record: put(), entry: copyOf(func(e *entry) { e.mark = "late" }), policy: orphans, want: update},
		"put, another's namespace":        {record: put(func(r *pipeline.Record) { r.Ref = pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "shop"} }), entry: copyOf(func(e *entry) { e.mark = "other" }), want: skipped, reason: "two Replications may share a namespace"},
		"put, orphaned namespace":         {record: put(func(r *pipeline.Record) { r.Ref = pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "shop"} }), entry: copyOf(func(e *entry) { e.mark = "late" }), policy: func(p *policy) { orphans(p); p.adopt = false }, want: update, reason: "nobody else keeps it, and two Replications may share one"},
		"put, equal":                      {record: put(), entry: copyOf(), want: same},
		"put, same record again":          {record: put(at5(4)), entry: copyOf(), want: same},
		"put, equal but recreated":        {record: put(func(r *pipeline.Record) { r.UID = "u2" }), entry: copyOf(), want: update, reason: "a late tombstone of the former object must not hit"},
		"put, equal but drifted":          {record: put(at5(4)), entry: copyOf(func(e *entry) { e.drifted = true }), want: update},
		"put, different":                  {record: put(), entry: copyOf(func(e *entry) { e.digest = digestB }), want: update},
		"put, same record, other wish":    {record: put(at5(4)), entry: copyOf(func(e *entry) { e.digest = digestB }), want: update, reason: "the Replication's spec or rules have changed"},
		"put, older":                      {record: put(at5(3)), entry: copyOf(func(e *entry) { e.digest = digestB }), want: skipped},
		"put, older, drifted":             {record: put(at5(3)), entry: copyOf(func(e *entry) { e.drifted = true }), want: skipped},
		"put, older than what was seen":   {record: put(), entry: copyOf(func(e *entry) { e.seen, e.digest = position(6), digestB }), want: skipped},
		"put, older epoch":                {record: put(func(r *pipeline.Record) { r.Position = pipeline.Position{Epoch: "D", Seq: 99} }), entry: copyOf(func(e *entry) { e.digest = digestB }), want: skipped},
		"put, newer epoch":                {record: put(func(r *pipeline.Record) { r.Position = pipeline.Position{Epoch: "F", Seq: 1} }), entry: copyOf(func(e *entry) { e.digest = digestB }), want: update},
		"put, of another site":            {record: put(at5(1)), entry: copyOf(func(e *entry) { e.origin.Site = "old" }), want: update, reason: "positions of two sites cannot be compared"},
		"put, of another namespace":       {record: put(), entry: copyOf(func(e *entry) { e.origin.Namespace = "twin" }), policy: displaced, want: behind},
		"put, of a displaced namespace":   {record: put(), entry: copyOf(func(e *entry) { e.origin.Namespace = "old" }), policy: displaced, want: update, reason: "the mapping was changed"},
		"put, copy on its way out":        {record: put(), entry: copyOf(func(e *entry) { e.deleting = true }), want: action{verb: doWait, uid: "c1"}},
		"put, of another name":            {record: put(), entry: copyOf(ofB), want: behind, reason: "two objects must not take turns in one copy"},
		"put, of another name, left":      {record: put(), entry: copyOf(ofB, func(e *entry) { e.left = true }), want: update, reason: "the other does not want it any more"},
		"put, elsewhere, home to another": {record: put(), entry: copyOf(func(e *entry) { e.source = "b" }), policy: astray, want: behind},
		"put, equal, but now elsewhere":   {record: put(), entry: copyOf(), policy: astray, want: update, reason: "the copy must say whose it is"},
		"put, equal elsewhere":            {record: put(), entry: copyOf(func(e *entry) { e.origin.Name = "a" }), policy: astray, want: same},
		"delete, of another name":         {record: tombstone(), entry: copyOf(ofB), want: skipped},
		"delete, nothing there":           {record: tombstone(), want: unchanged},
		"delete, foreign":                 {record: tombstone(), entry: entry{holder: foreign}, want: skipped},
		"delete, foreign, adopt":          {record: tombstone(), entry: entry{holder: foreign}, policy: adopt, want: skipped, reason: "only a put adopts"},
		"delete, another's":               {record: tombstone(), entry: copyOf(func(e *entry) { e.mark = "other" }), want: skipped},
		"delete, orphan, adopt":           {record: tombstone(), entry: copyOf(func(e *entry) { e.mark = "late" }), policy: orphans, want: skipped},
		"delete":                          {record: tombstone(), entry: copyOf(), want: remove},
		"delete, drifted":                 {record: tombstone(), entry: copyOf(func(e *entry) { e.drifted = true }), want: remove},
		"delete, of a later object":       {record: tombstone(func(r *pipeline.Record) { r.UID = "u2" }), entry: copyOf(), want: remove, reason: "the object of the copy must have gone before"},
		"delete, older":                   {record: tombstone(at5(3)), entry: copyOf(), want: skipped},
		"delete, older than seen":         {record: tombstone(), entry: copyOf(func(e *entry) { e.seen = position(6) }), want: skipped},
		"delete, at the copy's position":  {record: tombstone(at5(4)), entry: copyOf(), want: skipped, reason: "one position holds one record"},
		"delete, of another site":         {record: tombstone(), entry: copyOf(func(e *entry) { e.origin.Site = "old" }), want: skipped},
		"delete, of another namespace":    {record: tombstone(), entry: copyOf(func(e *entry) { e.origin.Namespace = "twin" }), want: skipped},
		"delete, retain":                  {record: tombstone(), entry: copyOf(), policy: retain, want: action{verb: doNothing, result: pipeline.ResultSkipped, leaves: true}},
		"delete, on its way out":          {record: tombstone(), entry: copyOf(func(e *entry) { e.deleting = true }), want: same},
		"delete without evidence":         {record: tombstone(func(r *pipeline.Record) { r.Evidence = pipeline.EvidenceNone }), entry: copyOf(), want: malformed},
		"delete without UID":              {record: tombstone(func(r *pipeline.Record) { r.UID = "" }), entry: copyOf(), want: malformed},
		"release":                         {record: put(func(r *pipeline.Record) { r.Op = pipeline.OpRelease }), entry: copyOf(), want: skipped},
		"heartbeat":                       {record: put(func(r *pipeline.Record) { r.Op = pipeline.OpHeartbeat }), entry: copyOf(), want: skipped},
		"unknown operation":               {record: put(func(r *pipeline.Record) { r.Op = 99 }), entry: copyOf(), want: malformed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := policy{mark: "me", orphaned: func(string) bool { return false }, displaced: func(entry) bool { return false }}
			if c.policy != nil {
				c.policy(&p)
			}
			got := decide(c.record, digestA, c.entry, p)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(action{}), cmpopts.IgnoreFields(action{}, "reason")); diff != "" {
				t.Errorf("decide (-want +got), %s:\n%s", c.reason, diff)
			}
			if got.verb == doRefuse && got.reason == "" {
				t.Error("a refusal without a reason")
			}
		})
	}
}

// TestDecideKeepsItsPromises draws any situation and checks the laws.
func TestDecideKeepsItsPromises(t *testing.T) {
	marks := rapid.SampledFrom([]string{"me", "other", "late"})
	sites := rapid.SampledFrom([]string{"prod", "old", ""})
	spaces := rapid.SampledFrom([]string{"shop", "twin", "old", ""})
	uids := rapid.SampledFrom([]string{"u1", "u2", ""})
	positions := rapid.Custom(func(t *rapid.T) pipeline.Position {
		return pipeline.Position{Epoch: rapid.SampledFrom([]string{"", "D", "E"}).Draw(t, "epoch"), Seq: rapid.Uint64Range(0, 4).Draw(t, "seq")}
	})
	rapid.Check(t, func(t *rapid.T) {
		r := put(func(r *pipeline.Record) {
			r.Op = rapid.SampledFrom([]pipeline.Op{pipeline.OpPut, pipeline.OpDelete, pipeline.OpRelease, pipeline.OpHeartbeat}).Draw(t, "op")
			r.Evidence = rapid.SampledFrom([]pipeline.Evidence{pipeline.EvidenceNone, pipeline.EvidenceWatch, pipeline.EvidenceReplaced, pipeline.EvidenceSweep}).Draw(t, "evidence")
			r.UID, r.Position = uids.Draw(t, "uid"), positions.Draw(t, "position")
		})
		e := entry{holder: rapid.SampledFrom([]holder{absent, foreign, marked}).Draw(t, "holder")}
		if e.holder == marked {
			e = entry{
				holder: marked, mark: marks.Draw(t, "mark"), uid: "c1", source: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "source"), left: rapid.Bool().Draw(t, "left"),
				digest:   rapid.SampledFrom([]pipeline.Digest{digestA, digestB}).Draw(t, "digest"),
				origin:   Origin{Site: sites.Draw(t, "site"), Namespace: spaces.Draw(t, "namespace"), UID: uids.Draw(t, "origin uid"), Position: positions.Draw(t, "watermark")},
				seen:     positions.Draw(t, "seen"),
				deleting: rapid.Bool().Draw(t, "deleting"), drifted: rapid.Bool().Draw(t, "drifted"),
			}
		}
		if e.holder == foreign {
			e.raised, e.uid = rapid.Bool().Draw(t, "raised"), "c1"
		}
		p := policy{
			mark: "me", retain: rapid.Bool().Draw(t, "retain"), adopt: rapid.Bool().Draw(t, "adopt"),
			orphaned:  func(m string) bool { return m == "late" },
			displaced: func(e entry) bool { return e.origin.Namespace == "old" },
		}
		got := decide(r, digestA, e, p)
		writes := got.verb == doApply || got.verb == doDelete
		ours := e.holder == marked && e.mark == "me"
		switch {
		case writes && r.Op != pipeline.OpPut && r.Op != pipeline.OpDelete:
			t.Fatal("writes for what is neither put nor delete")
		case got.verb == doApply && r.Op != pipeline.OpPut:
			t.Fatal("applies without a put")
		case got.verb == doDelete && (r.Op != pipeline.OpDelete || r.Evidence == pipeline.EvidenceNone || r.UID == ""):
			t.Fatal("deletes without a tombstone")
		case got.verb == doDelete && (!ours || p.retain || got.uid != e.uid):
			t.Fatal("deletes what is not ours, or retained, or without its UID")
		case got.verb == doApply && e.holder == absent && !got.fresh:
			t.Fatal("creates without making sure that there is nothing")
		case writes && e.holder == foreign && !p.adopt && (!e.raised || got.uid != e.uid):
			t.Fatal("touches a foreign object")
		case writes && e.holder == marked && e.mark == "other":
			t.Fatal("touches the copy of a living Replication")
		case writes && e.holder == marked && got.uid != e.uid:
			t.Fatal("writes to a copy without its UID")
		case writes && ours && e.origin.Site == r.Ref.Site && own(r, e) && r.Position.Compare(e.watermark()) < 0:
			t.Fatal("goes back behind the watermark")
		case writes && e.deleting:
			t.Fatal("writes to what is being deleted")
		case got.verb == doApply && ours && !e.drifted && e.digest == digestA && e.origin.UID == r.UID &&
			e.origin.Site == r.Ref.Site && own(r, e) && !p.stray:
			t.Fatal("writes an equal copy")
		case writes && ours && e.origin.Site == r.Ref.Site && !own(r, e) && !e.left && e.origin.Namespace != "old":
			t.Fatal("takes the copy of another source object")
		case got.verb == doNothing && got.result == "":
			t.Fatal("says nothing about doing nothing")
		}
	})
}

func TestDecideLeft(t *testing.T) {
	skipped := action{verb: doNothing, result: pipeline.ResultSkipped}
	cases := map[string]struct {
		record pipeline.Record
		entry  entry
		retain bool
		want   action
	}{
		"nothing there":           {record: put(), want: skipped},
		"foreign":                 {record: put(), entry: entry{holder: foreign}, want: skipped},
		"another's":               {record: put(), entry: copyOf(func(e *entry) { e.mark = "other" }), want: skipped},
		"of another site":         {record: put(), entry: copyOf(func(e *entry) { e.origin.Site = "old" }), want: skipped},
		"of another object":       {record: put(), entry: copyOf(func(e *entry) { e.source = "b" }), want: skipped},
		"of another namespace":    {record: put(), entry: copyOf(func(e *entry) { e.origin.Namespace = "twin" }), want: skipped},
		"newer than the record":   {record: put(at5(3)), entry: copyOf(), want: skipped},
		"ours":                    {record: put(), entry: copyOf(), want: action{verb: doDelete, uid: "c1"}},
		"ours, the rules changed": {record: put(at5(4)), entry: copyOf(), want: action{verb: doDelete, uid: "c1"}},
		"ours, retain":            {record: put(), entry: copyOf(), retain: true, want: action{verb: doNothing, result: pipeline.ResultSkipped, leaves: true}},
		"ours, on its way out":    {record: put(), entry: copyOf(func(e *entry) { e.deleting = true }), want: action{verb: doNothing, uid: "c1", result: pipeline.ResultUnchanged}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := decideLeft(c.record, c.entry, policy{mark: "me", retain: c.retain})
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(action{}), cmpopts.IgnoreFields(action{}, "reason")); diff != "" {
				t.Errorf("decideLeft (-want +got):\n%s", diff)
			}
		})
	}
}
