# frozen_string_literal: true

# What the Ruby client makes of the vectors, as JSON.
require "json"
require File.expand_path("sendimage", ARGV[1])

vectors = JSON.parse(File.read(ARGV[0], encoding: "UTF-8"))
images = Sendimage.new(
  vectors["key"], public_url: vectors["public_url"], prefix: vectors["prefix"],
                  presets: vectors["presets"], preset_sets: vectors["preset_sets"]
)
options = ->(row) { row.slice("expires", "download", "filename").transform_keys(&:to_sym) }
refuses = lambda do |row|
  images.url(row["ref"], row["spec"], **options[row])
rescue ArgumentError
  true
end

puts JSON.generate(
  urls: vectors["urls"].map { |row| images.url(row["ref"], row["spec"], **options[row]) },
  sets: vectors["sets"].map { |row| images.urls(row["ref"], row["preset_set"], **options[row]) },
  expiries: vectors["expiries"].map { |row| Sendimage.expiry(row["expires_in"], window: row["window"], now: row["now"]) },
  refused: vectors["refused"].map(&refuses),
  window: images.url(42, "width-1", expires_in: 60),
  half: refuses["ref" => "media/\xff.jpg", "spec" => "width-1"]
)
