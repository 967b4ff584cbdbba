<?php

declare(strict_types=1);

/**
 * Signed image URLs for sendimage: PHP 8.0 or newer, without dependencies.
 *
 *     $images = new Sendimage(getenv('SENDIMAGE_KEY'), 'https://www.example.org',
 *                             presetSets: ['article' => ['hero', 'width-800']]);
 *     $images->url(42, 'fill-400x300|format-webp');
 *     $images->url('media/2026/report.jpg', 'width-1600', expiresIn: 3600, download: 'The report.jpg');
 *     $images->urls(42, 'article');               // ['hero' => 'https://...', 'width-800' => 'https://...']
 *
 * The URLs are those that `sendimage sign` prints, byte for byte.
 */
final class Sendimage
{
    /** First line of what is signed. */
    public const LABEL = 'sendimage-v1';
    /** `signing.expiry_window_seconds`, unless the config says otherwise: links made within one window are equal. */
    public const EXPIRY_WINDOW = 3600;
    /** The end of the year 9999: no link lives longer. */
    public const LAST_SECOND = 253402300799;

    private const EXTENSIONS =
        ['jpeg' => 'jpg', 'png' => 'png', 'webp' => 'webp', 'avif' => 'avif', 'gif' => 'gif', 'ico' => 'ico'];
    /** rawurlencode() leaves -_.~ alone; these stay readable too, in a path segment and in a query's value. */
    private const SEGMENT = [
        '%21' => '!', '%24' => '$', '%27' => "'", '%28' => '(', '%29' => ')', '%2A' => '*', '%2B' => '+', '%2C' => ',',
        '%3A' => ':', '%3B' => ';', '%3D' => '=', '%40' => '@',
    ];
    private const QUERY_VALUE = [
        '%21' => '!', '%24' => '$', '%28' => '(', '%29' => ')', '%2A' => '*', '%2C' => ',', '%3A' => ':', '%40' => '@',
    ];

    /**
     * @param string $key `signing.secret`: its bytes are the key
     * @param string $publicUrl what URLs begin with
     * @param string $prefix `server.url_prefix`, or the route's
     * @param array<string, string> $presets as in the config; only their format counts, for the decorative file name
     * @param array<string, list<string>> $presetSets as in the config
     * @param int $expiryWindow `signing.expiry_window_seconds`
     */
    public function __construct(
        private string $key,
        private string $publicUrl = '',
        private string $prefix = '/images/',
        private array $presets = [],
        private array $presetSets = [],
        private int $expiryWindow = self::EXPIRY_WINDOW,
    ) {
    }

    /**
     * The URL of one rendition.
     *
     * @param int|string $ref an image's id, or "source/path"
     * @param string $spec a filter spec or the name of a preset
     * @param int|null $expiresIn for how many seconds it works, rounded up to the window
     * @param int|null $expires or the Unix time of its end, as it is
     * @param string|null $download the name that the browser saves it under
     * @param string|null $filename the decorative end of an id's URL
     * @throws InvalidArgumentException for what the service would not take
     */
    public function url(
        int|string $ref,
        string $spec,
        ?int $expiresIn = null,
        ?int $expires = null,
        ?string $download = null,
        ?string $filename = null,
    ): string {
        [$subject, $path] = self::split((string) $ref);
        self::check('spec', $spec);
        if (str_contains($spec, '/') || in_array($spec, ['', '.', '..'], true)) {
            throw new InvalidArgumentException('a filter spec is neither empty nor a path');
        }
        if ($expiresIn !== null) {
            if ($expires !== null) {
                throw new InvalidArgumentException('give expiresIn or expires, not both');
            }
            $expires = self::expiry($expiresIn, $this->expiryWindow);
        }
        if ($expires !== null && ($expires < 0 || $expires > self::LAST_SECOND)) {
            throw new InvalidArgumentException('a link does not work beyond the year 9999');
        }
        if ($download !== null) {
            self::check('download', $download);
            if ($download === '') {
                throw new InvalidArgumentException('the name of a download is not empty');
            }
        }

        $text = implode("\n", [self::LABEL, $subject, $spec, $path, $expires ?? '', $download ?? '', '']);
        $digest = hash_hmac('sha256', $text, $this->key, true);
        $signature = rtrim(strtr(base64_encode($digest), '+/', '-_'), '=');

        $last = $path === '' ? [$this->filename($subject, $spec, $filename)] : explode('/', $path);
        $segments = array_map(
            static fn (string $segment): string => strtr(rawurlencode($segment), self::SEGMENT),
            [$signature, $subject, $spec, ...$last],
        );
        $query = [];
        if ($expires !== null) {
            $query[] = "expires=$expires";
        }
        if ($download !== null) {
            $query[] = 'download=' . strtr(rawurlencode($download), self::QUERY_VALUE);
        }
        return $this->publicUrl . $this->prefix . implode('/', $segments) . ($query ? '?' . implode('&', $query) : '');
    }

    /**
     * The URLs of a preset set, by preset or spec, in its order; options as for `url`. Ready for a serializer.
     *
     * @return array<string, string>
     */
    public function urls(int|string $ref, string $presetSet, mixed ...$options): array
    {
        if (!isset($this->presetSets[$presetSet])) {
            throw new InvalidArgumentException("there is no preset set \"$presetSet\"");
        }
        $urls = [];
        foreach ($this->presetSets[$presetSet] as $spec) {
            $urls[$spec] = $this->url($ref, $spec, ...$options);
        }
        return $urls;
    }

    /**
     * The Unix time at which a link that is to work for `$expiresIn` seconds ends: rounded up to a multiple of `$window`.
     */
    public static function expiry(int $expiresIn, int $window = self::EXPIRY_WINDOW, ?int $now = null): int
    {
        if ($expiresIn <= 0) {
            throw new InvalidArgumentException('a link works for a second at least');
        }
        $window = max($window, 1);
        return intdiv(($now ?? time()) + $expiresIn + $window - 1, $window) * $window;
    }

    private function filename(string $subject, string $spec, ?string $filename): string
    {
        if ($filename === null) {
            return $subject . '.' . self::extension($this->presets[$spec] ?? $spec);
        }
        self::check('filename', $filename);
        if (str_contains($filename, '/') || $filename === '.' || $filename === '..') {
            throw new InvalidArgumentException('a decorative file name is one segment of a path');
        }
        return $filename;
    }

    /**
     * An id and no path, or a source and a path.
     *
     * @return array{string, string}
     */
    private static function split(string $ref): array
    {
        if (preg_match('/\A[0-9]+\z/', $ref)) {
            return [$ref, ''];
        }
        self::check('ref', $ref);
        [$source, $path] = explode('/', $ref, 2) + [1 => ''];
        $bad = array_intersect(['', '.', '..'], [$source, ...explode('/', $path)]);
        if ($bad || str_contains($path, '\\') || preg_match('/\A[0-9]+\z/', $source)) {
            throw new InvalidArgumentException('a reference is an image id (42) or a source and a path (media/a/b.jpg)');
        }
        return [$source, $path];
    }

    /** Refuses bytes that are no UTF-8, and control characters: C0, DEL and C1. */
    private static function check(string $name, string $text): void
    {
        if (preg_match('/[\x{00}-\x{1f}\x{7f}-\x{9f}]/u', $text) !== 0) {
            throw new InvalidArgumentException("$name holds a control character, or is not UTF-8");
        }
    }

    /** That of the last `format-` in a spec; the name is decoration, so a guess will do where there is none. */
    private static function extension(string $spec): string
    {
        foreach (array_reverse(explode('|', $spec)) as $operation) {
            $parts = explode('-', $operation);
            if ($parts[0] === 'format' && isset(self::EXTENSIONS[$parts[1] ?? ''])) {
                return self::EXTENSIONS[$parts[1]];
            }
        }
        return 'jpg';
    }
}
