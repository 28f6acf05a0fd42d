package transform

import (
	"math/big"
	"reflect"
	"sync"

	"github.com/itchyny/gojq"
)

// weigher adds up what a program holds: the values that can be reached from the
// machine that gojq runs it on. gojq does not give these away, so they are read, and
// only read, by reflection. A part that is shared counts once. The sizes are
// about those of Go's values.
type weigher struct {
	// input is what the program was given: it does not count.
	input any
	// machine is the iterator of the program that runs, nil when none does.
	machine gojq.Iter
	// kept are the results so far.
	kept []any

	seen map[part]struct{}
	todo []frame
	sum  int64
}

// part is a map, list or text: where it is and how long.
type part struct {
	at     uintptr
	length int
}

const (
	wordSize = 8
	pairSize = 2 * wordSize // an interface, or the header of a text
	listSize = 3 * wordSize
	mapSize  = 48
	// slotSize is what a map needs for a key and a value, and groupSlots the least
	// that it has room for.
	slotSize   = 40
	groupSlots = 8
	// shortText is counted wherever it is.
	shortText = 256
)

// all is the weight, or something beyond limit.
func (w *weigher) all(limit int64) int64 {
	if w.seen == nil {
		w.seen = map[part]struct{}{}
	}
	clear(w.seen)
	w.add(reflect.ValueOf(w.input), 1<<62)
	w.sum = 0
	w.add(reflect.ValueOf(w.kept), limit)
	if w.machine == nil {
		return w.sum
	}
	fields := machineFields()
	if fields == nil {
		return limit + 1 // another gojq than the one this was written for
	}
	env := reflect.ValueOf(w.machine).Elem()
	for _, index := range fields {
		w.add(env.FieldByIndex(index), limit)
	}
	return w.sum
}

// machineFields are the stacks of gojq's machine, nil when it has others.
var machineFields = sync.OnceValue(func() [][]int {
	program, err := gojq.Parse(".")
	if err != nil {
		return nil
	}
	machine := reflect.TypeOf(program.Run(nil))
	if machine.Kind() != reflect.Pointer || machine.Elem().Kind() != reflect.Struct {
		return nil
	}
	var fields [][]int
	for _, path := range [][]string{{"values"}, {"forks"}, {"stack", "data"}, {"paths", "data"}, {"scopes", "data"}} {
		at, index := machine.Elem(), []int(nil)
		for _, name := range path {
			if at.Kind() == reflect.Pointer {
				at = at.Elem()
			}
			field, ok := at.FieldByName(name)
			if !ok {
				return nil
			}
			at, index = field.Type, append(index, field.Index...)
		}
		if at.Kind() != reflect.Slice {
			return nil
		}
		fields = append(fields, index)
	}
	return fields
})

var bigInteger = reflect.TypeFor[big.Int]()

// frame is a container that is being gone through. Values may be nested deeper
// than a stack should grow, so there is a list of these instead.
type frame struct {
	// list is a list or the fields of a struct, next the place in it; members are
	// those of a map.
	list    reflect.Value
	next    int
	members *reflect.MapIter
}

// add weighs v and all in it, and ends early beyond limit.
func (w *weigher) add(v reflect.Value, limit int64) {
	w.todo = w.todo[:0]
	w.value(v)
	for len(w.todo) > 0 && w.sum <= limit {
		top := &w.todo[len(w.todo)-1]
		switch at := top.next; {
		case top.members != nil:
			if !top.members.Next() {
				w.todo = w.todo[:len(w.todo)-1]
				continue
			}
			key, value := top.members.Key(), top.members.Value()
			w.sum += int64(key.Len())
			w.value(value)
		case top.list.Kind() == reflect.Struct && at < top.list.NumField():
			top.next++
			w.value(top.list.Field(at))
		case top.list.Kind() == reflect.Slice && at < top.list.Len():
			top.next++
			w.value(top.list.Index(at))
		default:
			w.todo = w.todo[:len(w.todo)-1]
		}
	}
}

// value weighs what v has besides its place in a container, and puts a container
// on the list.
func (w *weigher) value(v reflect.Value) {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		if v.Len() < shortText || w.first(v) {
			w.sum += pairSize + int64(v.Len())
		}
	case reflect.Map:
		if v.Len() == 0 || !w.first(v) {
			return
		}
		w.sum += mapSize + slotSize*int64(max(v.Len(), groupSlots))
		if v.Type().Key().Kind() == reflect.String { // gojq keeps others for itself
			w.todo = append(w.todo, frame{members: v.MapRange()})
		}
	case reflect.Slice:
		if v.Cap() == 0 || !w.first(v) {
			return
		}
		of := v.Type().Elem()
		w.sum += listSize + int64(v.Cap())*int64(of.Size()) //nolint:gosec // G115: the size of a type
		if of.Kind() == reflect.Interface || of.Kind() == reflect.Struct {
			w.todo = append(w.todo, frame{list: v})
		}
	case reflect.Struct:
		w.todo = append(w.todo, frame{list: v})
	case reflect.Pointer:
		if !v.IsNil() && v.Type().Elem() == bigInteger {
			w.sum += listSize + wordSize + wordSize*int64(v.Elem().FieldByName("abs").Len())
		}
	default:
		w.sum += wordSize
	}
}

// first says whether a part is met for the first time.
func (w *weigher) first(v reflect.Value) bool {
	p := part{v.Pointer(), v.Len()}
	if _, met := w.seen[p]; met {
		return false
	}
	w.seen[p] = struct{}{}
	return true
}
