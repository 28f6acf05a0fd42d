package transform

import (
	"slices"
	"strings"
)

// The guards; each is a function of budget.go.
const (
	guardWalk    = "__walk"    // input may be walked through: bounded nodes, depth
	guardSpend   = "__spend"   // ... and what is made from it is of its size
	guardShallow = "__shallow" // the size of the value itself is spent
	guardIndex   = "__index"   // a number must be a sane index
	guardPath    = "__path"    // a list must be a sane path
	guardPaths   = "__paths"   // a list must be of sane paths
	guardNumeral = "__numeral" // text may become a number, or be a format for time
	guardProduct = "__product" // work goes with the product of input and argument
	guardRegexp  = "__regexp"  // argument is a pattern that is run over the input
	guardSearch  = "__search"  // argument is looked for in the input
	guardSplit   = "__split"   // argument is what the input is split at
	guardPair    = "__pair"    // two operands as a list; work goes with their product
	guardTimes   = "__times"   // two operands of "*" as a list
	guardTurn    = "__turn"    // rows are about to become columns
)

// guarding says what guards a function gets: one for its input, one for each
// of its arguments. A guard for an argument that takes part in the work
// together with the input (product, regexp, search, split) is called, others are piped into.
type guarding struct{ input, args string }

// guarded lists the functions of gojq that need it. What is absent takes time
// and memory in proportion to its input, or is run step by step.
var guarded = map[string]guarding{
	"add":            {guardSpend, guardSpend},
	"ascii_downcase": {guardSpend, ""},
	"ascii_upcase":   {guardSpend, ""},
	"bsearch":        {guardWalk, guardWalk},
	"capture":        {"", guardRegexp},
	"combinations":   {guardWalk, ""},
	"contains":       {"", guardProduct},
	"del":            {guardWalk, ""},
	"delpaths":       {guardWalk, guardPaths},
	"explode":        {guardSpend, ""},
	"flatten":        {guardSpend, ""},
	"format":         {guardSpend, ""},
	"from_entries":   {guardSpend, ""},
	"fromjson":       {guardSpend, ""},
	"fromstream":     {"", guardPaths},
	"getpath":        {"", guardPath},
	"group_by":       {guardSpend, guardWalk},
	"gsub":           {guardSpend, guardRegexp},
	"implode":        {guardSpend, ""},
	"IN":             {guardWalk, guardWalk},
	"INDEX":          {guardWalk, guardSpend},
	"index":          {"", guardSearch},
	"indices":        {"", guardSearch},
	"inside":         {"", guardProduct},
	"join":           {"", guardProduct},
	"JOIN":           {guardWalk, guardWalk},
	"keys":           {guardShallow, ""},
	"map_values":     {guardWalk, ""},
	"match":          {"", guardRegexp},
	"max":            {guardWalk, ""},
	"max_by":         {guardWalk, guardWalk},
	"min":            {guardWalk, ""},
	"min_by":         {guardWalk, guardWalk},
	"nth":            {"", guardIndex},
	"reverse":        {guardShallow, ""},
	"rindex":         {"", guardSearch},
	"scan":           {"", guardRegexp},
	"setpath":        {"", guardPath},
	"sort":           {guardSpend, ""},
	"sort_by":        {guardSpend, guardWalk},
	"split":          {guardSpend, guardRegexp},
	"splits":         {guardSpend, guardRegexp},
	"strftime":       {"", guardNumeral},
	"strptime":       {guardNumeral, guardNumeral},
	"sub":            {guardSpend, guardRegexp},
	"test":           {"", guardRegexp},
	"todate":         {guardNumeral, ""},
	"tojson":         {guardSpend, ""},
	"tonumber":       {guardNumeral, ""},
	"tostring":       {guardSpend, ""},
	"transpose":      {guardTurn, ""},
	"unique":         {guardSpend, ""},
	"unique_by":      {guardSpend, guardWalk},
	"walk":           {guardWalk, ""},
	"with_entries":   {guardSpend, ""},
}

// refused are the names that a rule cannot use, and why.
var refused = map[string]string{
	"$ENV":              "rules see no environment: pass values as params",
	"env":               "rules see no environment: pass values as params",
	"input":             "a rule gets one object and no input",
	"inputs":            "a rule gets one object and no input",
	"input_filename":    "a rule gets one object and no input",
	"input_line_number": "a rule gets one object and no input",
	"debug":             "a rule writes no messages: use drsync transform explain",
	"stderr":            "a rule writes no messages: use drsync transform explain",
	"halt":              "a rule cannot halt the program: return empty to drop the object, or error(\"why\") to fail",
	"halt_error":        "a rule cannot halt the program: return empty to drop the object, or error(\"why\") to fail",
	"now":               "a rule gives the same result whenever it runs: it sees no clock",
	"localtime":         "a rule gives the same result wherever it runs: use gmtime",
	"strflocaltime":     "a rule gives the same result wherever it runs: use strftime",
	"modulemeta":        "modules cannot be looked into",
	"builtins":          "functions cannot be listed",
	"get_search_list":   "modules have no search path",
}

// internal are functions that gojq keeps for itself, but would let anyone call
// past the guards.
var internal = []string{
	"_add", "_alternative", "_assign", "_captures", "_divide", "_equal", "_greater", "_greatereq", "_group_by", "_index", "_last",
	"_less", "_lesseq", "_match", "_max_by", "_min_by", "_modify", "_modulo", "_multiply", "_negate", "_notequal", "_plus", "_range",
	"_slice", "_sort_by", "_subtract", "_tobase64", "_tobase64d", "_tocsv", "_tohtml", "_tosh", "_totsv", "_touri", "_tourid", "_unique_by",
}

// formats are those that gojq knows; it would report others only when they are used.
var formats = []string{"@text", "@json", "@html", "@uri", "@urid", "@csv", "@tsv", "@sh", "@base64", "@base64d"}

// refusal says why a name cannot be used, empty when it can.
func refusal(name string) string {
	why := refused[name]
	switch {
	case why != "":
	case strings.HasPrefix(strings.TrimPrefix(name, "$"), "__"):
		why = "names that begin with two underscores are reserved"
	case slices.Contains(internal, name):
		why = "it is an internal function of gojq"
	case strings.HasPrefix(name, "@") && !slices.Contains(formats, name):
		why = "there is no such format"
	}
	return why
}
