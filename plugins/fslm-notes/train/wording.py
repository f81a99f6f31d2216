"""The words of a note: which slot plays which part, and how each wish is put."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ROLES = {
    "name": (
        "restaurant_name", "hotel_name", "place_name", "movie_name", "title", "event_name", "song_name",
        "property_name", "stylist_name", "dentist_name", "doctor_name", "therapist_name", "recipient_account_name",
        "recipient_name", "airlines", "pickup_location",
    ),
    "place": (
        "city", "location", "area", "city_of_event", "event_location", "destination", "destination_city", "to_location",
        "where_to", "pickup_city",
    ),
    "origin": ("origin", "origin_city", "from_location"),
    "date": (
        "date", "appointment_date", "check_in_date", "departure_date", "event_date", "leaving_date", "pickup_date",
        "show_date", "visit_date",
    ),
    "time": (
        "time", "appointment_time", "departure_time", "event_time", "leaving_time", "outbound_departure_time",
        "pickup_time", "show_time",
    ),
}  # fmt: skip
"""A note's field to the slots that fill it, the first one there is."""

COUNTED = (
    "party_size", "passengers", "travelers", "group_size", "number_of_seats", "number_of_tickets", "number_of_riders",
    "number_of_adults",
)  # fmt: skip
"""Slots that say how many people, seats or tickets."""

DETAILS = {
    "cuisine": "cuisine", "genre": "genre", "artist": "artist", "album": "album", "year": "year",
    "directed_by": "director", "director": "director", "starring": "starring", "actors": "starring",
    "subtitles": "subtitles", "subtitle_language": "subtitles", "playback_device": "device",
    "category": "category", "subcategory": "kind", "event_type": "type", "type": "type", "car_type": "type",
    "ride_type": "type", "show_type": "format", "fare_type": "fare", "theater_name": "theater",
    "seating_class": "class", "flight_class": "class", "return_date": "return", "inbound_departure_time": "return at",
    "check_out_date": "until", "dropoff_date": "until", "number_of_days": "days", "stay_length": "days",
    "number_of_rooms": "rooms", "number_of_beds": "bedrooms", "number_of_baths": "bathrooms",
    "star_rating": "stars", "rating": "rating", "price_range": "price range", "account_type": "account",
    "recipient_account_type": "to account", "amount": "amount", "transfer_amount": "amount",
    "number_checked_bags": "bags",
}  # fmt: skip
"""Slots that a note names beside its facts, and what it calls them."""

ASKED = {
    "street_address": "address", "address_of_location": "address", "venue_address": "address",
    "event_location": "venue",
    "average_rating": "rating", "aggregate_rating": "rating", "total_price": "price", "price_per_night": "price",
    "fare": "price", "ride_fare": "price", "has_wifi": "wifi", "has_live_music": "live music",
    "serves_alcohol": "alcohol", "has_laundry_service": "laundry service", "is_unisex": "unisex",
    "has_seating_outdoors": "outdoor seating", "has_vegetarian_options": "vegetarian options",
    "offers_cosmetic_services": "cosmetic services", "smoking_allowed": "smoking", "pets_welcome": "pets",
    "pets_allowed": "pets", "is_redeye": "red-eye", "outbound_departure_time": "departure",
    "outbound_arrival_time": "arrival", "inbound_departure_time": "return departure",
    "inbound_arrival_time": "return arrival", "number_stops": "stops", "actors": "starring",
    "account_balance": "balance", "destination_airport": "arrival airport", "origin_airport": "departure airport",
    "destination_airport_name": "arrival airport", "origin_airport_name": "departure airport",
    "directed_by": "director", "origin_station_name": "departure station", "from_station": "departure station",
    "destination_station_name": "arrival station", "to_station": "arrival station", "subcategory": "kind",
}  # fmt: skip
"""Slots that a customer may ask for, and what a note calls their answers; others by their own name."""

VISIT = {"name": "at", "origin": "from", "place": "in", "date": "on", "time": "at"}
TRIP = {"name": "with", "origin": "from", "place": "to", "date": "on", "time": "at"}
TITLE = {"name": "called", "origin": "from", "place": "in", "date": "on", "time": "at"}


@dataclass(frozen=True)
class Words:
    """How one wish is put.

    Attributes:
        wanted: what the customer did.
        noun: what it would have led to, as a sentence begins with it.
        done: what came of it where it went well.
        does: it changes something in the world, rather than looking something up.
        prepositions: what stands before each fact.
    """

    wanted: str
    noun: str = "The booking"
    done: str = "was made"
    does: bool = False
    prepositions: Mapping[str, str] = field(default_factory=lambda: VISIT)


def deed(wanted: str, noun: str, done: str = "was made", prepositions: Mapping[str, str] = VISIT) -> Words:
    """A wish for something to be done."""
    return Words(wanted, noun, done, True, prepositions)


def look_up(wanted: str, prepositions: Mapping[str, str] = VISIT) -> Words:
    """A wish to know something."""
    return Words(wanted, prepositions=prepositions)


WISHES = {
    "AddEvent": deed("wanted an entry in the calendar", "The entry", "was added", TITLE),
    "BookAppointment": deed("wanted an appointment", "The appointment", "was made", {**VISIT, "name": "with"}),
    "BookHouse": deed("wanted to book a house", "The booking"),
    "BuyBusTicket": deed("wanted bus tickets", "The booking", "was made", TRIP),
    "BuyEventTickets": deed("wanted tickets", "The purchase", "was made", {**VISIT, "name": "to"}),
    "BuyMovieTickets": deed("wanted cinema tickets", "The purchase", "was made", {**VISIT, "name": "to"}),
    "CheckBalance": look_up("asked for a balance"),
    "FindApartment": look_up("looked for an apartment", TITLE),
    "FindBus": look_up("looked for a bus", TRIP),
    "FindEvents": look_up("looked for an event", TITLE),
    "FindMovies": look_up("looked for a film", TITLE),
    "FindProvider": look_up("looked for somebody to see", TITLE),
    "FindRestaurants": look_up("looked for a restaurant", TITLE),
    "GetAvailableTime": look_up("asked for free time in the calendar", TITLE),
    "GetCarsAvailable": look_up("looked for a rental car"),
    "GetEventDates": look_up("asked for the dates of an event", TITLE),
    "GetEvents": look_up("asked what is in the calendar", TITLE),
    "GetRide": deed("wanted a ride", "The ride", "was ordered", TRIP),
    "GetTimesForMovie": look_up("asked for the times of a film", TITLE),
    "LookupMusic": look_up("looked for a song", TITLE),
    "LookupSong": look_up("looked for a song", TITLE),
    "PlayMedia": deed("wanted to hear a song", "The song", "was started", TITLE),
    "PlayMovie": deed("wanted to watch a film", "The film", "was started", TITLE),
    "PlaySong": deed("wanted to hear a song", "The song", "was started", TITLE),
    "RentMovie": deed("wanted to rent a film", "The rental", "was made", TITLE),
    "ReserveCar": deed("wanted to rent a car", "The booking"),
    "ReserveHotel": deed("wanted a hotel room", "The booking"),
    "ReserveOnewayFlight": deed("wanted a one-way flight", "The booking", "was made", TRIP),
    "ReserveRestaurant": deed("wanted a table", "The booking"),
    "ReserveRoundtripFlights": deed("wanted a return flight", "The booking", "was made", TRIP),
    "ScheduleVisit": deed("wanted to see a home", "The visit", "was arranged"),
    "SearchHotel": look_up("looked for a hotel", TITLE),
    "SearchHouse": look_up("looked for a house to stay in", TITLE),
    "SearchOnewayFlight": look_up("looked for a one-way flight", TRIP),
    "SearchRoundtripFlights": look_up("looked for a return flight", TRIP),
    "TransferMoney": deed("wanted to transfer money", "The transfer", "was made", {**VISIT, "name": "to"}),
}
"""Each of the data set's intents, in words."""

__all__ = ["ASKED", "COUNTED", "DETAILS", "ROLES", "WISHES", "Words"]
