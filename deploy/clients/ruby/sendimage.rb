# frozen_string_literal: true

require "openssl"

# Signed image URLs for sendimage: Ruby 2.7 or newer, without gems.
#
#     images = Sendimage.new(ENV.fetch("SENDIMAGE_KEY"), public_url: "https://www.example.org",
#                            preset_sets: { "article" => ["hero", "width-800"] })
#     images.url(42, "fill-400x300|format-webp")
#     images.url("media/2026/report.jpg", "width-1600", expires_in: 3600, download: "The report.jpg")
#     images.urls(42, "article")                  # { "hero" => "https://...", "width-800" => "https://..." }
#
# The URLs are those that `sendimage sign` prints, byte for byte.
class Sendimage
  # First line of what is signed.
  LABEL = "sendimage-v1"
  # `signing.expiry_window_seconds`, unless the config says otherwise: links made within one window are equal.
  EXPIRY_WINDOW = 3600
  # The end of the year 9999: no link lives longer.
  LAST_SECOND = 253_402_300_799

  EXTENSIONS = { "jpeg" => "jpg", "png" => "png", "webp" => "webp", "avif" => "avif", "gif" => "gif", "ico" => "ico" }.freeze
  # What does not stay readable in a path segment, and in a query's value.
  NOT_IN_SEGMENT = %r{[^A-Za-z0-9\-._~!$'()*+,:;=@]}n.freeze
  NOT_IN_QUERY = /[^A-Za-z0-9\-._~!$()*,:@]/n.freeze
  # Control characters, which no field may hold: C0, DEL and C1.
  CONTROL = /[\u0000-\u001f\u007f-\u009f]/.freeze
  private_constant :EXTENSIONS, :NOT_IN_SEGMENT, :NOT_IN_QUERY, :CONTROL

  # The Unix time at which a link that is to work for `expires_in` seconds ends: rounded up to a multiple of `window`.
  def self.expiry(expires_in, window: EXPIRY_WINDOW, now: Time.now)
    raise ArgumentError, "a link works for a second at least" unless expires_in.positive?

    window = [window, 1].max
    ((now.to_r + expires_in).floor + window - 1).div(window) * window
  end

  # `key`: `signing.secret`, whose bytes are the key. `prefix`: `server.url_prefix`, or the route's. `presets` and
  # `preset_sets`: as in the config; of the presets only the format counts, for the decorative file name.
  def initialize(key, public_url: "", prefix: "/images/", presets: {}, preset_sets: {}, expiry_window: EXPIRY_WINDOW)
    @key = key
    @public_url = public_url
    @prefix = prefix
    @presets = presets
    @preset_sets = preset_sets
    @expiry_window = expiry_window
  end

  # The URL of one rendition.
  #
  # `ref`: an image's id, or "source/path". `spec`: a filter spec or the name of a preset. `expires_in`: for how many seconds
  # it works, rounded up to the window; or `expires`, the Unix time of its end as it is. `download`: the name that the browser
  # saves it under. `filename`: the decorative end of an id's URL.
  #
  # Raises ArgumentError for what the service would not take.
  def url(ref, spec, expires_in: nil, expires: nil, download: nil, filename: nil)
    subject, path = split(ref.to_s)
    spec = checked("spec", spec)
    raise ArgumentError, "a filter spec is neither empty nor a path" if spec.include?("/") || ["", ".", ".."].include?(spec)
    raise ArgumentError, "give expires_in or expires, not both" if expires_in && expires

    expires = self.class.expiry(expires_in, window: @expiry_window) if expires_in
    raise ArgumentError, "a link does not work beyond the year 9999" if expires && !expires.between?(0, LAST_SECOND)

    download = checked("download", download) if download
    raise ArgumentError, "the name of a download is not empty" if download == ""

    text = [LABEL, subject, spec, path, expires.to_s, download.to_s, ""].join("\n")
    signature = [OpenSSL::HMAC.digest("SHA256", @key, text)].pack("m0").tr("+/", "-_").delete("=")

    last = path.empty? ? [decoration(subject, spec, filename)] : path.split("/")
    url = @public_url + @prefix + [signature, subject, spec, *last].map { |part| escape(part, NOT_IN_SEGMENT) }.join("/")
    query = []
    query << "expires=#{expires}" if expires
    query << "download=#{escape(download, NOT_IN_QUERY)}" if download
    query.empty? ? url : "#{url}?#{query.join('&')}"
  end

  # The URLs of a preset set, by preset or spec, in its order; options as for `url`. Ready for a serializer.
  def urls(ref, preset_set, **options)
    specs = @preset_sets.fetch(preset_set) { raise ArgumentError, "there is no preset set #{preset_set.inspect}" }
    specs.to_h { |spec| [spec, url(ref, spec, **options)] }
  end

  private

  # An id and no path, or a source and a path.
  def split(ref)
    return [ref, ""] if ref.match?(/\A[0-9]+\z/)

    source, slash, path = checked("ref", ref).partition("/")
    parts = [source, *path.split("/", -1)]
    bad = slash.empty? || path.empty? || parts.any? { |part| ["", ".", ".."].include?(part) } || path.include?("\\")
    if bad || source.match?(/\A[0-9]+\z/)
      raise ArgumentError, "#{ref.inspect} is neither an image id (42) nor a source and a path (media/a/b.jpg)"
    end

    [source, path]
  end

  def checked(name, text)
    text = text.encode(Encoding::UTF_8)
    raise ArgumentError, "#{name} is not UTF-8" unless text.valid_encoding?
    raise ArgumentError, "#{name} holds a control character" if text.match?(CONTROL)

    text
  end

  def escape(text, pattern)
    text.b.gsub(pattern) { |byte| format("%%%02X", byte.ord) }.force_encoding(Encoding::UTF_8)
  end

  def decoration(subject, spec, filename)
    return "#{subject}.#{extension(@presets.fetch(spec, spec))}" unless filename

    filename = checked("filename", filename)
    if filename.include?("/") || [".", ".."].include?(filename)
      raise ArgumentError, "a decorative file name is one segment of a path"
    end

    filename
  end

  # That of the last `format-` in a spec; the name is decoration, so a guess will do where there is none.
  def extension(spec)
    spec.split("|").reverse_each do |operation|
      name, format = operation.split("-")
      return EXTENSIONS[format] if name == "format" && EXTENSIONS.key?(format)
    end
    "jpg"
  end
end
