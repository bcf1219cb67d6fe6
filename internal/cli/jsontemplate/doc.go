// Package jsontemplate prints values by templates of Go's syntax, over the form
// that they have as JSON: {{.root.volume_id}}, {{range .data}}{{.size_gib}} {{end}}.
//
// The grammar and its parser are text/template's own. What runs them is here,
// because text/template calls methods by their names at run time: a program
// that links it keeps every method of every type, which for a client of AWS
// triples its size. It has text/template's actions, but for define, block and
// template, and these functions: and, eq, ge, gt, index, join, json, le, len,
// lower, lt, ne, not, or, printf, upper.
//
// A field that there can't be is an error that says which there are; one that
// JSON leaves out because it is empty prints as nothing.
package jsontemplate
