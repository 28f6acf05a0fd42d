package rsync

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPlan(t *testing.T) {
	data := func(c Class, pending int64) Ran {
		return Ran{Pass: PassData, Class: c, Stats: Stats{Files: 1000, Transferred: 5}, Pending: pending}
	}
	del := Settings{Delete: true}
	live := Settings{Delete: true, Live: true}
	cases := map[string]struct {
		settings Settings
		ran      []Ran
		next     Pass
		limit    int64
		end      Class
	}{
		"Begin":                 {del, nil, PassData, 0, Done},
		"CleanIsVerified":       {del, []Ran{data(Done, 0)}, PassSample, 0, Done},
		"Unverified":            {Settings{Verify: VerifyNone}, []Ran{data(Done, 0)}, "", 0, Done},
		"FullyVerified":         {Settings{Verify: VerifyFull}, []Ran{data(Done, 0)}, PassFull, 0, Done},
		"BlockIsVerifiedWhole":  {Settings{Block: true}, []Ran{data(Done, 0)}, PassFull, 0, Done},
		"Deletions":             {del, []Ran{data(TooManyDeletions, 3)}, PassDelete, 250, Done},
		"TooManyDeletions":      {del, []Ran{data(TooManyDeletions, 251)}, "", 0, TooManyDeletions},
		"PartialStops":          {del, []Ran{data(Partial, 0)}, "", 0, Partial},
		"PartialWithDeletions":  {del, []Ran{data(Partial, 3)}, PassReplace, 250, Done},
		"ReplacedThenDelete":    {del, []Ran{data(Partial, 3), {Pass: PassReplace}}, PassDelete, 250, Done},
		"StillPartialStops":     {del, []Ran{data(Partial, 3), {Pass: PassReplace, Class: Partial}}, "", 0, Partial},
		"VanishedFromASnapshot": {del, []Ran{data(Vanished, 0)}, "", 0, Partial},
		"VanishedLive":          {live, []Ran{data(Vanished, 0)}, PassData, 0, Done},
		"VanishedLiveAgain":     {live, []Ran{data(Done, 0), data(Vanished, 0)}, PassDelete, 250, Done},
		"LiveSettles":           {live, []Ran{data(Done, 0)}, PassData, 0, Done},
		"LiveHasSettled":        {live, []Ran{data(Done, 0), data(Done, 0)}, PassSample, 0, Done},
		"DeletePassAtItsLimit":  {del, []Ran{data(TooManyDeletions, 3), {Pass: PassDelete, Class: TooManyDeletions}}, "", 0, TooManyDeletions},
		"Broken":                {del, []Ran{data(Transient, 0)}, "", 0, Transient},
		"Different":             {del, []Ran{data(Done, 0), {Pass: PassSample, Different: 1}}, "", 0, Different},
		"Verified":              {del, []Ran{data(Done, 0), {Pass: PassSample}}, "", 0, Done},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			next, limit, end := Plan(c.settings, c.ran)
			if diff := cmp.Diff([]any{c.next, c.limit, c.next == ""}, []any{next, limit, end != nil}); diff != "" {
				t.Fatal(diff)
			}
			if end != nil && (end.Class != c.end || end.Reason == "") {
				t.Errorf("it ends %s (%s), want %s", end.Class, end.Reason, c.end)
			}
		})
	}
}

// TestPlanProperty has passes end in any way: the copy ends, nothing is deleted
// unless a data pass was clean before, nor beyond the limit, and Done means that the
// last data pass and all that followed were.
func TestPlanProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Settings{
			Delete: rapid.Bool().Draw(t, "delete"), Live: rapid.Bool().Draw(t, "live"), AllowEmpty: rapid.Bool().Draw(t, "allow empty"),
			DeleteCount: rapid.IntRange(0, 20).Draw(t, "count"), Verify: rapid.SampledFrom([]Verify{"", VerifyNone, VerifySample, VerifyFull}).Draw(t, "verify"),
		}
		var ran []Ran
		for {
			next, limit, end := Plan(s, ran)
			if end != nil {
				if end.Class == Done {
					for _, r := range ran {
						if r.Class != Done && r.Class != TooManyDeletions && (r.Class != Vanished || !s.Live) && (r.Class != Partial || r.Pass != PassData) {
							t.Fatalf("done, although: %+v", ran)
						}
					}
				}
				return
			}
			if next == PassDelete || next == PassReplace {
				last := ran[len(ran)-1]
				if !s.Delete || limit < 0 || last.Pending > limit || next == PassDelete && last.Class == Partial {
					t.Fatalf("%s up to %d with %+v after %+v", next, limit, s, ran)
				}
			}
			if len(ran) == 6 {
				t.Fatalf("it does not end: %+v", ran)
			}
			r := Ran{Pass: next, Class: Class(rapid.IntRange(0, int(Memory)).Draw(t, "class"))}
			r.Stats = Stats{Files: rapid.Int64Range(0, 100).Draw(t, "files"), Transferred: rapid.Int64Range(0, 1).Draw(t, "transferred")}
			if s.Delete && next == PassData {
				r.Pending = rapid.Int64Range(0, 30).Draw(t, "pending")
			}
			ran = append(ran, r)
		}
	})
}
