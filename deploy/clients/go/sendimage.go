// Package sendimage makes signed image URLs for sendimage, with nothing but the standard library.
//
//	images := sendimage.Signer{
//		Key:        []byte(os.Getenv("SENDIMAGE_KEY")),
//		PublicURL:  "https://www.example.org",
//		PresetSets: map[string][]string{"article": {"hero", "width-800"}},
//	}
//	url, err := images.URL("42", "fill-400x300|format-webp", nil)
//	url, err = images.URL("media/2026/report.jpg", "width-1600",
//		&sendimage.Options{ExpiresIn: time.Hour, Download: "The report.jpg"})
//	urls, err := images.URLs("42", "article", nil)
//
// The URLs are those that `sendimage sign` prints, byte for byte.
package sendimage

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// Label is the first line of what is signed.
	Label = "sendimage-v1"
	// DefaultPrefix is server.url_prefix, unless the config says otherwise.
	DefaultPrefix = "/images/"
	// DefaultExpiryWindow is signing.expiry_window_seconds, unless the config says otherwise: links made within one window
	// are equal, so that browsers can keep what they have.
	DefaultExpiryWindow = time.Hour
	// LastSecond is the end of the year 9999: no link lives longer.
	LastSecond = 253_402_300_799

	// What stays readable beside letters and digits, in a path segment and in a query's value.
	segmentSafe = "-._~!$'()*+,:;=@"
	querySafe   = "-._~!$()*,:@"
)

var extensions = map[string]string{
	"jpeg": "jpg", "png": "png", "webp": "webp", "avif": "avif", "gif": "gif", "ico": "ico",
}

// Signer makes URLs with one native key. It may be used by several goroutines at once.
type Signer struct {
	// Key is signing.secret.
	Key []byte
	// PublicURL is what URLs begin with.
	PublicURL string
	// Prefix is server.url_prefix, or the route's; DefaultPrefix where it is empty.
	Prefix string
	// Presets and PresetSets are as in the config; of the presets only the format counts, for the decorative file name.
	Presets    map[string]string
	PresetSets map[string][]string
	// ExpiryWindow is signing.expiry_window_seconds; DefaultExpiryWindow where it is 0.
	ExpiryWindow time.Duration
}

// Options of a URL. The zero value has none.
type Options struct {
	// ExpiresIn is for how long the URL works, rounded up to the window.
	ExpiresIn time.Duration
	// Expires, or the Unix time of its end, as it is.
	Expires int64
	// Download is the name that the browser saves the image under.
	Download string
	// Filename is the decorative end of an id's URL, where it is not nil.
	Filename *string
}

// Expiry is the Unix time at which a link that is to work for expiresIn ends: rounded up to a multiple of window.
func Expiry(now time.Time, expiresIn, window time.Duration) int64 {
	step := int64(window / time.Second)
	if step < 1 {
		step = 1
	}
	return (now.Add(expiresIn).Unix() + step - 1) / step * step
}

// URL is that of one rendition. ref is an image's id or "source/path", spec a filter spec or the name of a preset. What the
// service would not take is an error.
func (s Signer) URL(ref, spec string, options *Options) (string, error) {
	if options == nil {
		options = &Options{}
	}
	subject, path, err := split(ref)
	if err != nil {
		return "", err
	}
	if err := check("spec", spec); err != nil {
		return "", err
	}
	if spec == "" || spec == "." || spec == ".." || strings.Contains(spec, "/") {
		return "", errors.New("sendimage: a filter spec is neither empty nor a path")
	}
	expires, err := s.end(options)
	if err != nil {
		return "", err
	}
	if err := check("download", options.Download); err != nil {
		return "", err
	}

	mac := hmac.New(sha256.New, s.Key)
	mac.Write([]byte(strings.Join([]string{Label, subject, spec, path, expires, options.Download, ""}, "\n")))
	segments := []string{base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), subject, spec}
	if path != "" {
		segments = append(segments, strings.Split(path, "/")...)
	} else {
		name, err := s.filename(subject, spec, options.Filename)
		if err != nil {
			return "", err
		}
		segments = append(segments, name)
	}

	var url strings.Builder
	url.WriteString(s.PublicURL)
	if s.Prefix == "" {
		url.WriteString(DefaultPrefix)
	} else {
		url.WriteString(s.Prefix)
	}
	for i, segment := range segments {
		if i > 0 {
			url.WriteByte('/')
		}
		escape(&url, segment, segmentSafe)
	}
	separator := byte('?')
	if expires != "" {
		url.WriteByte(separator)
		url.WriteString("expires=" + expires)
		separator = '&'
	}
	if options.Download != "" {
		url.WriteByte(separator)
		url.WriteString("download=")
		escape(&url, options.Download, querySafe)
	}
	return url.String(), nil
}

// URLs are those of a preset set, by preset or spec.
func (s Signer) URLs(ref, presetSet string, options *Options) (map[string]string, error) {
	specs, ok := s.PresetSets[presetSet]
	if !ok {
		return nil, fmt.Errorf("sendimage: there is no preset set %q", presetSet)
	}
	urls := make(map[string]string, len(specs))
	for _, spec := range specs {
		url, err := s.URL(ref, spec, options)
		if err != nil {
			return nil, err
		}
		urls[spec] = url
	}
	return urls, nil
}

func (s Signer) end(options *Options) (string, error) {
	expires := options.Expires
	switch {
	case options.ExpiresIn < 0:
		return "", errors.New("sendimage: a link works for a second at least")
	case options.ExpiresIn > 0 && expires != 0:
		return "", errors.New("sendimage: give ExpiresIn or Expires, not both")
	case options.ExpiresIn > 0:
		window := s.ExpiryWindow
		if window == 0 {
			window = DefaultExpiryWindow
		}
		expires = Expiry(time.Now(), options.ExpiresIn, window)
	case expires == 0:
		return "", nil
	}
	if expires < 0 || expires > LastSecond {
		return "", errors.New("sendimage: a link does not work beyond the year 9999")
	}
	return strconv.FormatInt(expires, 10), nil
}

func (s Signer) filename(subject, spec string, filename *string) (string, error) {
	if filename == nil {
		if preset, ok := s.Presets[spec]; ok {
			spec = preset
		}
		return subject + "." + extension(spec), nil
	}
	if err := check("filename", *filename); err != nil {
		return "", err
	}
	if *filename == "." || *filename == ".." || strings.Contains(*filename, "/") {
		return "", errors.New("sendimage: a decorative file name is one segment of a path")
	}
	return *filename, nil
}

// split gives an id and no path, or a source and a path.
func split(ref string) (subject, path string, err error) {
	if isID(ref) {
		return ref, "", nil
	}
	if err := check("ref", ref); err != nil {
		return "", "", err
	}
	source, path, _ := strings.Cut(ref, "/")
	bad := isID(source) || strings.Contains(path, `\`)
	for _, part := range append(strings.Split(path, "/"), source) {
		bad = bad || part == "" || part == "." || part == ".."
	}
	if bad {
		return "", "", fmt.Errorf("sendimage: %q is neither an image id (42) nor a source and a path (media/a/b.jpg)", ref)
	}
	return source, path, nil
}

func isID(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

// check refuses bytes that are no UTF-8, and control characters: C0, DEL and C1.
func check(name, text string) error {
	if !utf8.ValidString(text) || strings.IndexFunc(text, unicode.IsControl) >= 0 {
		return fmt.Errorf("sendimage: %s holds a control character, or is not UTF-8", name)
	}
	return nil
}

func escape(to *strings.Builder, text, safe string) {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(text); i++ {
		b := text[i]
		isAlphanumeric := '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z'
		if isAlphanumeric || strings.IndexByte(safe, b) >= 0 {
			to.WriteByte(b)
		} else {
			to.Write([]byte{'%', digits[b>>4], digits[b&15]})
		}
	}
}

// extension is that of the last format- in a spec; the name is decoration, so a guess will do where there is none.
func extension(spec string) string {
	operations := strings.Split(spec, "|")
	for i := len(operations) - 1; i >= 0; i-- {
		parts := strings.Split(operations[i], "-")
		if len(parts) > 1 && parts[0] == "format" {
			if found, ok := extensions[parts[1]]; ok {
				return found
			}
		}
	}
	return "jpg"
}
