package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// pageSize is how many objects one request of a list returns.
const pageSize = "500"

// list reads the whole kind, page by page, at one version, for servers that do not stream
// initial state. Whatever the Reflector asks for, the read is a consistent one of the present
// state: a list from a cache may be older than what was already seen. Bodies go to the handler
// page by page.
func (s *source) list(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	paged, last := s.paged, s.err
	s.mu.Unlock()
	if !paged {
		// The Reflector lists after any failure of its stream; a server that streams gets no
		// second, more expensive request for the same failure.
		if last == nil {
			last = errors.New("the stream ended early")
		}
		return nil, last
	}
	if !s.begin() {
		return nil, context.Canceled
	}
	defer s.wg.Done()
	if err := s.pause(ctx); err != nil {
		return nil, err
	}
	all := &thinList{}
	limit, next := pageSize, ""
	for {
		page, err := s.page(ctx, limit, next)
		if IsExpired(err) && next != "" {
			// The rest of this version is gone: all at once then.
			all, limit, next = &thinList{}, "", ""
			continue
		}
		if err == nil && all.ResourceVersion != "" && all.ResourceVersion != page.ResourceVersion {
			err = pipeline.WithClass(pipeline.Transient, errors.New("the pages of the list are of different versions"))
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			s.setPaged(false) // perhaps it was the line that was silent, not the server's stream
			return nil, s.fail(s.describe("list", err))
		}
		all.ResourceVersion = page.ResourceVersion
		all.Items = append(all.Items, page.Items...)
		if next = page.Continue; next == "" {
			s.mu.Lock()
			s.listed = all.ResourceVersion
			s.mu.Unlock()
			s.healthy(true)
			return all, nil
		}
	}
}

// page reads one page and hands its bodies to the handler.
func (s *source) page(ctx context.Context, limit, next string) (*thinList, error) {
	r := s.request(acceptMetaList)
	if limit != "" {
		r = r.Param("limit", limit)
	}
	if next != "" {
		r = r.Param("continue", next)
	}
	body, err := s.client.do(ctx, r)
	if err != nil {
		return nil, err
	}
	s.connected()
	page, err := decodeList(body, s.kind)
	if err != nil {
		return nil, pipeline.WithClass(pipeline.Malformed, err)
	}
	for _, t := range page.Items {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.handler.Observe(t.Object)
		t.Raw = nil
	}
	return page, nil
}

// thinList is a list of thin objects, in the form that a Reflector can take apart.
type thinList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []*thin
}

// DeepCopyObject is what runtime.Object asks for.
func (l *thinList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]*thin, len(l.Items))
	for i, t := range l.Items {
		item := *t
		c.Items[i] = &item
	}
	return &c
}

// decodeList reads a list or a page of one.
func decodeList(body []byte, k Kind) (*thinList, error) {
	if !gjson.ValidBytes(body) {
		return nil, fmt.Errorf("decode list: %w: invalid JSON", errNotObject)
	}
	parts := gjson.GetManyBytes(body, "kind", "metadata.resourceVersion", "metadata.continue", "items")
	kind, version, next, items := parts[0], parts[1], parts[2], parts[3]
	if !strings.HasSuffix(kind.Str, "List") || version.Str == "" || items.Exists() && !items.IsArray() && items.Type != gjson.Null {
		return nil, fmt.Errorf("decode list: %w: no list", errNotObject)
	}
	l := &thinList{ListMeta: metav1.ListMeta{ResourceVersion: clone(version), Continue: clone(next)}}
	var failure error
	items.ForEach(func(_, item gjson.Result) bool {
		raw := withType(item, k)
		o, err := identify(raw, k)
		if err != nil {
			failure = fmt.Errorf("decode list: %w", err)
			return false
		}
		o.Raw = raw
		l.Items = append(l.Items, &thin{Object: o, sharedMeta: blank})
		return true
	})
	if failure != nil {
		return nil, failure
	}
	return l, nil
}

// withType returns the item's body. The items of a list of a built-in kind do not say
// their apiVersion and kind: then it is added.
func withType(item gjson.Result, k Kind) []byte {
	if item.Get("kind").Exists() {
		return []byte(item.Raw)
	}
	head := `{"kind":"` + k.Kind + `","apiVersion":"` + k.APIVersion() + `",`
	raw := make([]byte, 0, len(head)+len(item.Raw))
	raw = append(raw, head...)
	return append(raw, strings.TrimLeft(item.Raw, "{ \n\t")...)
}
