package sigv4

import (
	"cmp"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// canonicalRequest spells a request in the one way that both sides sign.
func (s *signature) canonicalRequest(r *http.Request, payloadHash string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n" + canonicalPath(r.URL, s.scope.service) + "\n")
	for i, p := range s.query {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(encode(p.name, false) + "=" + encode(p.value, false))
	}
	b.WriteByte('\n')
	for _, name := range s.signedHeaders {
		b.WriteString(name + ":" + canonicalHeader(r, name) + "\n")
	}
	b.WriteString("\n" + strings.Join(s.signedHeaders, ";") + "\n" + payloadHash)
	return b.String()
}

// canonicalPath is the path as sent, with dots and double slashes resolved and
// then encoded once more. S3 alone, whose keys may hold anything, signs it as
// sent.
func canonicalPath(u *url.URL, service string) string {
	p := u.EscapedPath()
	if p == "" {
		p = "/"
	}
	if service == "s3" {
		return p
	}
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return encode(clean, true)
}

// canonicalHeader joins the values of a header and folds their spaces. Go's
// server keeps the host, and may keep the length, apart from the other headers.
func canonicalHeader(r *http.Request, name string) string {
	if name == "host" {
		return fold(r.Host)
	}
	vs := r.Header.Values(name)
	if len(vs) == 0 && name == "content-length" && r.ContentLength >= 0 {
		return strconv.FormatInt(r.ContentLength, 10)
	}
	folded := make([]string, len(vs))
	for i, v := range vs {
		folded[i] = fold(v)
	}
	return strings.Join(folded, ",")
}

// fold trims a value and makes one space of several.
func fold(s string) string {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "  ") {
		return s
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), " ")
}

// pair is one parameter of a query, decoded.
type pair struct{ name, value string }

// parseQuery decodes a query and sorts it as the signature wants it: by encoded
// name, then by encoded value.
func parseQuery(raw string) ([]pair, *Error) {
	var ps []pair
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, err1 := url.QueryUnescape(name)
		v, err2 := url.QueryUnescape(value)
		if err := cmp.Or(err1, err2); err != nil {
			return nil, refuse(Malformed, "the query cannot be read: %v", err)
		}
		ps = append(ps, pair{n, v})
	}
	slices.SortStableFunc(ps, func(a, b pair) int {
		return cmp.Or(cmp.Compare(encode(a.name, false), encode(b.name, false)), cmp.Compare(encode(a.value, false), encode(b.value, false)))
	})
	return ps, nil
}

func values(ps []pair, name string) []string {
	var vs []string
	for _, p := range ps {
		if p.name == name {
			vs = append(vs, p.value)
		}
	}
	return vs
}

// encode percent-encodes every byte but RFC 3986's unreserved ones; not slashes
// where they separate.
func encode(s string, keepSlash bool) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '-', c == '.', c == '_', c == '~', c == '/' && keepSlash:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
