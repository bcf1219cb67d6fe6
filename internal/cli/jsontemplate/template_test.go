package jsontemplate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/steadcloud/stead/internal/cli/jsontemplate"
)

type disk struct {
	ID   string `json:"volume_id"`
	Size int    `json:"size_gib"`
}

type base struct {
	Name string `json:"name"`
}

type server struct {
	base
	Instance string         `json:"instance_id,omitempty"`
	Root     *disk          `json:"root"`
	Data     []disk         `json:"data"`
	Ports    map[string]int `json:"ports,omitempty"`
	Made     *time.Time     `json:"made,omitempty"`
	Ready    bool           `json:"ready"`
	Price    float64        `json:"price"`
	secret   string
}

var web = server{
	base: base{"web"}, Root: &disk{"vol-1", 8}, Data: []disk{{"vol-2", 10}, {"vol-3", 20}}, Ports: map[string]int{"22": 2222, "80": 80},
	Ready: true, Price: 12.5, secret: "x",
}

func render(text string, v any) (string, error) {
	t, err := jsontemplate.Parse(text)
	if err != nil {
		return "", err
	}
	dot, err := jsontemplate.Tree(v)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, dot)
	return b.String(), err
}

// TestLikeTextTemplate runs the templates through text/template too.
func TestLikeTextTemplate(t *testing.T) {
	var dot map[string]any
	blob, err := json.Marshal(web)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blob, &dot); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"{{.name}}", "{{.root.volume_id}} {{.root.size_gib}}", "{{range .data}}{{.volume_id}},{{end}}",
		"{{range $k, $v := .data}}{{$k}}={{$v.volume_id}} {{end}}", "{{range $p, $to := .ports}}{{$p}}:{{$to}} {{end}}",
		"{{if .ready}}yes{{else}}no{{end}}", "{{if and .ready (eq .name \"web\")}}both{{end}}", "{{with .root}}{{.volume_id}}{{end}}",
		"{{len .data}}", "{{(index .data 1).volume_id}}", "{{index .ports \"22\"}}", "{{.name | printf \"<%s>\"}}",
		"{{$n := .name}}{{range .data}}{{$n}} {{end}}", "{{range .data}}{{if eq .volume_id \"vol-3\"}}{{break}}{{end}}{{.volume_id}}{{end}}",
		"{{range .data}}{{if eq .volume_id \"vol-2\"}}{{continue}}{{end}}{{.volume_id}}{{end}}", "a {{- /* note */ -}} b",
		"{{if gt .root.size_gib 7.0}}big{{end}}", "{{not .ready}}", "{{or .instance \"none\"}}", "{{.price}}", "{{range .none}}x{{else}}empty{{end}}",
		"{{if ne .name \"db\"}}{{else if .ready}}{{end}}!", "{{true}} {{1}} {{\"x\"}}",
	} {
		dot["instance"], dot["none"] = nil, nil
		var want bytes.Buffer
		if err := template.Must(template.New("").Parse(text)).Execute(&want, dot); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		tree, err := jsontemplate.Tree(web)
		if err != nil {
			t.Fatal(err)
		}
		tree.(map[string]any)["instance"], tree.(map[string]any)["none"] = nil, nil
		if got, err := render(text, tree); err != nil || got != want.String() {
			t.Errorf("%s: %q, %v; text/template says %q", text, got, err, want.String())
		}
	}
}

func TestFunctions(t *testing.T) {
	made := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	v := web
	v.Made = &made
	for text, want := range map[string]string{
		"{{json .data}}":                   `[{"size_gib":10,"volume_id":"vol-2"},{"size_gib":20,"volume_id":"vol-3"}]`,
		"{{upper .name}}{{lower \"ABC\"}}": "WEBabc", "{{.made}}": "2026-11-22T20:00:00Z", "{{.instance_id}}.": ".",
		"{{join .names \", \"}} {{.names | join \"+\"}}": "a, b a+b", "{{le 1 2}} {{ge 1 2}} {{lt \"a\" \"b\"}}": "true false true",
	} {
		tree, err := jsontemplate.Tree(v)
		if err != nil {
			t.Fatal(err)
		}
		tree.(map[string]any)["names"] = []any{"a", "b"}
		if got, err := render(text, tree); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	_, err := render("{{.nomen}}", web)
	var field *jsontemplate.FieldError
	if !errors.As(err, &field) || field.Field != "nomen" || !strings.Contains(err.Error(), "instance_id, made, name") || strings.Contains(err.Error(), "secret") {
		t.Errorf("an unknown field: %v", err)
	}
	for _, text := range []string{"{{.name", "{{nothing .name}}", "{{.name.first}}", "{{range .name}}{{end}}", "{{index .data 7}}", "{{upper}}", "{{template \"x\"}}", "{{.name .root}}"} {
		if got, err := render(text, web); err == nil {
			t.Errorf("%s: %q and no error", text, got)
		}
	}
	if got, err := render("", web); err != nil || got != "" {
		t.Errorf("an empty template: %q, %v", got, err)
	}
}
